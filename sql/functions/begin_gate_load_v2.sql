-- Begins a loading of the gate: a new epoch, the free count under it, no return left over. Holds the product lock
-- exclusively, so no accept or release is half way, and the live count is exact: no unit is counted. Does nothing and
-- gives no row if the epoch is not _seen_epoch any more: somebody else has begun a loading since the caller looked.
CREATE FUNCTION begin_gate_load_v2(_product_id integer, _seen_epoch bigint)
RETURNS TABLE (epoch bigint, free bigint)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _epoch bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7000, _product_id);
    UPDATE products
    SET epoch = epoch + 1
    WHERE product_id = _product_id AND epoch = _seen_epoch
    RETURNING epoch INTO _epoch;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM gate_returns WHERE product_id = _product_id;
    PERFORM pg_notify('flashsale_products', _product_id::text);
    RETURN QUERY SELECT _epoch, l.free::bigint FROM product_live AS l WHERE l.product_id = _product_id;
END;
$$;
