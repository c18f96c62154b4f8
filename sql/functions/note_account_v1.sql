-- Writes to the trail what was changed of the power of an account that is no buyer's, before or after: its role, and that
-- its password is another one. No trigger writes a password's hash.
CREATE FUNCTION note_account_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    _old jsonb;
    _new jsonb;
BEGIN
    IF tg_op <> 'INSERT' THEN
        _old := jsonb_build_object('role', old.role);
    END IF;
    IF tg_op <> 'DELETE' THEN
        _new := jsonb_build_object('role', new.role);
    END IF;
    IF tg_op = 'UPDATE' AND old.password_hash IS DISTINCT FROM new.password_hash THEN
        _old := _old || '{"password": "old"}';
        _new := _new || '{"password": "new"}';
    END IF;
    IF _old IS DISTINCT FROM _new AND (coalesce(_old ->> 'role', 'buyer'), coalesce(_new ->> 'role', 'buyer')) <> ('buyer', 'buyer') THEN
        PERFORM note_action_v1(
            lower(tg_op) || ' users', 'account/' || coalesce(new.user_id, old.user_id), _old, _new
        );
    END IF;
    RETURN NULL;
END;
$$;
