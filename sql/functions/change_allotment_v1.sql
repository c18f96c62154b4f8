-- Adds to how many units of a product exist, or takes away: set_allotment_v2 with a number that is counted from the one
-- that holds under the lock. Gives `too_small` also below 0, and `too_large` above _most.
CREATE FUNCTION change_allotment_v1(_product_id integer, _change integer, _most integer)
RETURNS TABLE (result text, claimed integer)
LANGUAGE plpgsql
AS $$
DECLARE
    _allotment bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7000, _product_id);
    SELECT p.allotment::bigint + _change INTO _allotment FROM products AS p WHERE p.product_id = _product_id;
    IF _allotment > _most THEN
        RETURN QUERY SELECT 'too_large', 0;
        RETURN;
    END IF;
    RETURN QUERY SELECT s.result, s.claimed FROM set_allotment_v2(_product_id, greatest(_allotment, -1)::integer) AS s;
END;
$$;
