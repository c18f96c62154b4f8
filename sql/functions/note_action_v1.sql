-- Writes a row of the trail. Who acts, from where and by which call is what the transaction set as flashsale.author
-- (JSON: user, actor, origin, action, request); without it, the database's user acts by _action.
CREATE FUNCTION note_action_v1(_action text, _object text, _old jsonb, _new jsonb)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    _author constant jsonb := coalesce(nullif(current_setting('flashsale.author', true), ''), '{}');
    _user_id constant uuid := _author ->> 'user';
BEGIN
    INSERT INTO admin_trail (user_id, actor, origin, action, object, old, new, request_id)
    VALUES (
        _user_id,
        coalesce(
            (SELECT email_root_v1(coalesce(u.email_key, lower(u.email))) FROM users AS u WHERE u.user_id = _user_id),
            _author ->> 'actor',
            'system'
        ),
        coalesce(_author ->> 'origin', 'database user ' || session_user),
        coalesce(_author ->> 'action', _action),
        _object,
        _old,
        _new,
        _author ->> 'request'
    );
END;
$$;
