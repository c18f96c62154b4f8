-- name: create_buyer
-- Creates a buyer's account, unless the email is in use.
INSERT INTO users (user_id, name, email, password_hash, email_key)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING user_id, name, email, role, created_at;

-- name: create_admin
-- Creates an administrator's account, unless the email is in use. Only the owner of the tables may.
INSERT INTO users (user_id, name, email, password_hash, email_key, role)
VALUES ($1, $2, $3, $4, $5, 'admin')
ON CONFLICT DO NOTHING
RETURNING user_id, name, email, role, created_at;

-- name: credentials
-- Reads an account and its password hash by email as it was typed ($1) or by its key ($2): the first of them that there is.
SELECT user_id, name, email, role, created_at, password_hash_v1(user_id) AS password_hash
FROM users
WHERE coalesce(email_key, lower(email)) IN (lower($1), $2)
ORDER BY lower(email) = lower($1) DESC
LIMIT 1;

-- name: administrators
-- Reads the emails of the administrators.
SELECT email FROM users WHERE role = 'admin' LIMIT 1000;

-- name: set_password
-- Replaces an account's password hash.
UPDATE users SET password_hash = $2 WHERE user_id = $1;

-- name: create_buyers
-- Creates buyers $1-1 to $1-$2 without passwords, those that do not exist yet.
INSERT INTO users (user_id, name, email)
SELECT gen_random_uuid(), $1 || ' ' || n, $1 || '-' || n || '@buyers.invalid'
FROM generate_series(1, $2::integer) AS n
ON CONFLICT DO NOTHING;

-- name: buyers
-- Reads the ids of buyers $1-1 to $1-$2, in that order.
SELECT u.user_id
FROM generate_series(1, $2::integer) AS n
INNER JOIN users AS u ON lower(u.email) = lower($1 || '-' || n || '@buyers.invalid')
ORDER BY n;
