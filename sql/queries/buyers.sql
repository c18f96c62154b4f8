-- name: find_buyers
-- Finds the accounts of buyers with the e-mail address $1 as it was written, or with its key $2.
SELECT user_id, name, email, role, created_at, generation
FROM users
WHERE coalesce(email_key, lower(email)) IN (lower($1), $2) AND role = 'buyer'
ORDER BY created_at;

-- name: erase_buyer
-- Erases what an account of a buyer says of a person; `erased`, `open` or `unknown`.
SELECT erase_buyer_v1($1) AS result;

-- name: archived_orders
-- Counts the orders of an account of which most is in files only.
SELECT count(*) AS orders FROM archived_orders WHERE user_id = $1;
