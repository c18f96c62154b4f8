-- Gives the password hash of one account, for a login. It runs with the rights of the owner of the tables: the database
-- user of the API may read no column of hashes, so that no other statement of it can.
CREATE FUNCTION password_hash_v1(_user_id uuid)
RETURNS text
LANGUAGE sql
STABLE
SECURITY DEFINER
-- Names are bound when the function is made: no search_path of a caller changes what it reads.
BEGIN ATOMIC
SELECT u.password_hash FROM users AS u WHERE u.user_id = $1;
END;
