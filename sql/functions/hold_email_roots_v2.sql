-- Locks the e-mail roots of users for a product until the end of the transaction, in one order everywhere, and then gives
-- each user's with what all accounts of the root hold of the product, what they did not pay for and until when the last of
-- it counts, and when they could have units again last.
CREATE FUNCTION hold_email_roots_v2(_product_id integer, _user_ids uuid [], _now timestamptz)
RETURNS TABLE (
    user_id uuid,
    limit_id uuid,
    units integer,
    cooling integer,
    cools_until timestamptz,
    released_at timestamptz
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock(7003, l.lock)
    FROM (
        SELECT DISTINCT hashtext(_product_id || ':' || limit_id_v1(u.email_key, u.email)) AS lock
        FROM users AS u
        WHERE u.user_id = ANY(_user_ids)
        ORDER BY lock
    ) AS l;
    -- In a statement of its own: what the holder of a lock before committed is in its snapshot.
    RETURN QUERY
    SELECT
        u.user_id, u.limit_id, coalesce(sum(b.units), 0)::integer,
        coalesce(sum(b.cooling) FILTER (WHERE b.cools_until > _now), 0)::integer,
        max(b.cools_until) FILTER (WHERE b.cools_until > _now),
        coalesce(
            greatest(max(b.released_at), max(b.cools_until) FILTER (WHERE b.cools_until <= _now)), '-infinity'
        )
    FROM (
        SELECT a.user_id, limit_id_v1(a.email_key, a.email) AS limit_id
        FROM users AS a
        WHERE a.user_id = ANY(_user_ids)
    ) AS u
    LEFT JOIN buyer_units AS b ON b.product_id = _product_id AND u.limit_id = b.limit_id
    GROUP BY u.user_id, u.limit_id;
END;
$$;
