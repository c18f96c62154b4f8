-- Takes an account that a copy of cell 0's accounts sends. One that is here already becomes as cell 0 has it; it is not
-- inserted, and no order loses its account. So a copy can begin again in a database that has accounts. If another account
-- has the e-mail address, cell 0 has given the address away: that account gets one that nobody has. Where a product counts
-- e-mail roots, its buyers are counted under their new ones.
-- Only copies fire this trigger (ENABLE REPLICA), registrations do not.
CREATE FUNCTION merge_account_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    _known users;
    _readdressed uuid [];
BEGIN
    WITH replaced AS (
        UPDATE users AS u
        SET email = 'replaced-' || u.user_id || '@replaced.invalid', email_key = NULL
        WHERE coalesce(u.email_key, lower(u.email)) = coalesce(new.email_key, lower(new.email))
            AND u.user_id <> new.user_id
        RETURNING u.user_id
    )
    SELECT coalesce(array_agg(r.user_id), '{}') INTO _readdressed FROM replaced AS r;

    SELECT * INTO _known FROM users AS u WHERE u.user_id = new.user_id;
    IF FOUND AND _known IS DISTINCT FROM new THEN
        UPDATE users AS u
        SET
            name = new.name, email = new.email, email_key = new.email_key, password_hash = new.password_hash,
            role = new.role, created_at = new.created_at, generation = new.generation
        WHERE u.user_id = new.user_id;
        IF (_known.email, _known.email_key) IS DISTINCT FROM (new.email, new.email_key) THEN
            _readdressed := _readdressed || new.user_id;
        END IF;
    END IF;

    IF cardinality(_readdressed) > 0 THEN
        UPDATE buyer_units AS n
        SET limit_id = limit_id_v1(u.email_key, u.email)
        FROM users AS u
        WHERE n.user_id = ANY(_readdressed) AND n.limit_id IS NOT NULL AND n.user_id = u.user_id
            AND n.product_id IN (SELECT o.product_id FROM orders AS o WHERE o.user_id = ANY(_readdressed));
    END IF;
    IF _known.user_id IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN new;
END;
$$;
