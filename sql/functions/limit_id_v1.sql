-- The identity that a limit per e-mail root counts: a digest of the root. The gate knows a buyer by it, and nobody reads an
-- address from it. _email_key: NULL for an account that has none (see users).
CREATE FUNCTION limit_id_v1(_email_key text, _email text)
RETURNS uuid
LANGUAGE sql
STABLE
AS $$
    SELECT encode(
        substr(sha256(convert_to(email_root_v1(coalesce(_email_key, email_key_v1(_email))), 'UTF8')), 1, 16), 'hex'
    )::uuid;
$$;
