-- name: create_buyer
-- Creates a buyer's account, unless the email is in use.
INSERT INTO users (user_id, name, email, password_hash, email_key)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING user_id, name, email, role, created_at, generation;

-- name: create_staff
-- Creates an account with a role, unless the email is in use. Only the owner of the tables may.
INSERT INTO users (user_id, name, email, password_hash, email_key, role)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
RETURNING user_id, name, email, role, created_at, generation;

-- name: credentials
-- Reads an account and its password hash by email as it was typed ($1) or by its key ($2): the first of them that there is.
SELECT user_id, name, email, role, created_at, generation, password_hash_v1(user_id) AS password_hash
FROM users
WHERE coalesce(email_key, lower(email)) IN (lower($1), $2)
ORDER BY lower(email) = lower($1) DESC
LIMIT 1;

-- name: administrators
-- Reads the emails of everybody who is no buyer.
SELECT email FROM users WHERE role <> 'buyer' LIMIT 1000;

-- name: staff
-- Reads the accounts of everybody who is no buyer, by email.
SELECT user_id, name, email, role, created_at, generation FROM users WHERE role <> 'buyer' ORDER BY email LIMIT 1000;

-- name: account
-- Reads an account by id.
SELECT user_id, name, email, role, created_at, generation FROM users WHERE user_id = $1;

-- name: set_password
-- Replaces the password hash of an account of generation $3, or of any if that is null. A trigger raises the generation.
UPDATE users SET password_hash = $2
WHERE user_id = $1 AND ($3::integer IS NULL OR generation = $3)
RETURNING generation;

-- name: set_role
-- Gives an account a role. A trigger raises the generation.
UPDATE users SET role = $2 WHERE user_id = $1;

-- name: generations
-- Reads the generations of accounts, without those that are 0.
SELECT user_id, generation FROM users WHERE user_id = any($1::uuid []) AND generation > 0;

-- name: raise_generation
-- Ends the tokens of an account of generation $2, or of any if that is null.
UPDATE users SET generation = generation + 1
WHERE user_id = $1 AND ($2::integer IS NULL OR generation = $2)
RETURNING generation;

-- name: revocations
-- Reads the revocations of the last $1, oldest first. There are no more than passwords were hashed in that time.
SELECT
    user_id,
    generation,
    extract(EPOCH FROM clock_timestamp() - revoked_at)::double precision AS age_s
FROM revocations
WHERE revoked_at > statement_timestamp() - $1::interval
ORDER BY revoked_at;

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
