-- Notes that an account's older tokens have ended, all of them if it was deleted, and notifies the API processes. It also
-- fires where accounts are copies of another server's (ALWAYS); the time is this server's, when the copy arrived.
CREATE FUNCTION note_revocation_v2()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    _lowest integer := 2147483647;
BEGIN
    IF tg_op = 'UPDATE' THEN
        _lowest := new.generation;
    END IF;
    INSERT INTO revocations (user_id, generation, revoked_at)
    VALUES (old.user_id, _lowest, clock_timestamp())
    ON CONFLICT (user_id) DO UPDATE SET generation = excluded.generation, revoked_at = excluded.revoked_at;
    PERFORM pg_notify('flashsale_accounts', json_build_array(old.user_id, _lowest)::text);
    RETURN NULL;
END;
$$;
