-- Sets how many units of a product exist, under the exclusive product lock, never below what orders hold. Rows of units
-- are made or deleted afterwards, by tend_units_v1: the pool keeps how many are missing or too many. A change raises the
-- epoch, so that the gate is loaded again; the same allotment again changes nothing.
-- Gives `changed`, `unchanged`, `too_small` or `unknown`, and the number of claimed units.
CREATE FUNCTION set_allotment_v2(_product_id integer, _allotment integer)
RETURNS TABLE (result text, claimed integer)
LANGUAGE plpgsql
AS $$
DECLARE
    _before integer;
    _claimed integer;
BEGIN
    PERFORM pg_advisory_xact_lock(7000, _product_id);
    SELECT p.allotment, p.allotment - l.free INTO _before, _claimed
    FROM products AS p
    INNER JOIN product_live AS l ON p.product_id = l.product_id
    WHERE p.product_id = _product_id;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'unknown', 0;
        RETURN;
    END IF;
    IF _allotment = _before THEN
        RETURN QUERY SELECT 'unchanged', _claimed;
        RETURN;
    END IF;
    IF _allotment < _claimed THEN
        RETURN QUERY SELECT 'too_small', _claimed;
        RETURN;
    END IF;
    INSERT INTO unit_pools AS o (product_id, unmade)
    VALUES (_product_id, _allotment - _before)
    ON CONFLICT (product_id) DO UPDATE SET unmade = o.unmade + excluded.unmade;
    UPDATE products
    SET allotment = _allotment, epoch = epoch + 1, updated_at = clock_timestamp()
    WHERE product_id = _product_id;
    DELETE FROM gate_returns WHERE product_id = _product_id;
    PERFORM pg_notify('flashsale_products', _product_id::text);
    PERFORM change_stock_v1(ARRAY[_product_id], ARRAY[_allotment - _before]);
    RETURN QUERY SELECT 'changed', _claimed;
END;
$$;
