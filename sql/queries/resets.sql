-- name: ask_reset
-- Notes that the buyer's account with an email as typed ($1) or by its key ($2) asks for a new password, unless it asked
-- within $3.
INSERT INTO password_resets AS r (user_id, generation)
SELECT f.user_id, f.generation
FROM (
    SELECT u.user_id, u.generation, u.role
    FROM users AS u
    WHERE coalesce(u.email_key, lower(u.email)) IN (lower($1), $2)
    ORDER BY lower(u.email) = lower($1) DESC
    LIMIT 1
) AS f
WHERE f.role = 'buyer'
ON CONFLICT (user_id) DO UPDATE
SET generation = excluded.generation, requested_at = clock_timestamp(), due_at = clock_timestamp()
WHERE r.requested_at < clock_timestamp() - $3::interval;

-- name: reset_account
-- Reads the account of a code by its digest ($1), if the code may still be used.
SELECT u.user_id, u.name, u.email, u.role, u.created_at, u.generation
FROM password_resets AS r
INNER JOIN users AS u ON r.user_id = u.user_id AND r.generation = u.generation
WHERE r.digest = $1 AND r.expires_at > clock_timestamp();

-- name: use_code
-- Uses a code up by its digest ($1), and replaces the password hash of its account with $2. Of two uses at the same time,
-- one finds the row.
WITH used AS (
    DELETE FROM password_resets WHERE digest = $1 AND expires_at > clock_timestamp() RETURNING user_id, generation
)
UPDATE users AS u SET password_hash = $2
FROM used AS r
WHERE u.user_id = r.user_id AND u.generation = r.generation
RETURNING u.user_id, u.generation;

-- name: claim_resets
-- Gives up to $1 requests whose e-mail is due; each is due again in $2, should the process die.
UPDATE password_resets AS r
SET due_at = clock_timestamp() + $2::interval
FROM users AS u
WHERE
    r.user_id IN (
        SELECT c.user_id FROM password_resets AS c
        WHERE c.due_at <= now()
        ORDER BY c.due_at
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    )
    AND r.user_id = u.user_id
RETURNING r.user_id, u.email;

-- name: keep_code
-- Keeps the digest ($2) of the code that is about to be sent to an account ($1), which holds for $3. An older code ends.
UPDATE password_resets SET digest = $2, expires_at = clock_timestamp() + $3::interval WHERE user_id = $1;

-- name: end_reset
-- Sends an account ($1) no more e-mails about the code of the digest $2.
UPDATE password_resets SET due_at = NULL WHERE user_id = $1 AND digest = $2;

-- name: forget_resets
-- Forgets requests that are older than $1.
DELETE FROM password_resets WHERE requested_at < now() - $1::interval;
