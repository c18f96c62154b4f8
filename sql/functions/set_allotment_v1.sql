-- Sets how many units of a product exist, under the exclusive product lock, never below what orders hold. A change
-- raises the epoch, so the gate is loaded anew; the same allotment again changes nothing.
-- Gives `changed`, `unchanged`, `too_small` or `unknown`, and the number of claimed units.
CREATE FUNCTION set_allotment_v1(_product_id integer, _allotment integer)
RETURNS TABLE (result text, claimed integer)
LANGUAGE plpgsql
AS $$
DECLARE
    _before integer;
    _claimed integer;
BEGIN
    PERFORM pg_advisory_xact_lock(7000, _product_id);
    SELECT p.allotment INTO _before FROM products AS p WHERE p.product_id = _product_id;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'unknown', 0;
        RETURN;
    END IF;
    SELECT count(*) INTO _claimed FROM units AS u WHERE u.product_id = _product_id AND u.order_id IS NOT NULL;
    IF _allotment = _before THEN
        RETURN QUERY SELECT 'unchanged', _claimed;
        RETURN;
    END IF;
    IF _allotment < _claimed THEN
        RETURN QUERY SELECT 'too_small', _claimed;
        RETURN;
    END IF;
    IF _allotment > _before THEN
        INSERT INTO units (product_id, unit_no)
        SELECT _product_id, m.highest + n
        FROM generate_series(1, _allotment - _before) AS n
        CROSS JOIN (
            SELECT coalesce(max(u.unit_no), 0) AS highest FROM units AS u WHERE u.product_id = _product_id
        ) AS m;
    ELSE
        DELETE FROM units AS u
        USING (
            SELECT f.unit_no FROM units AS f
            WHERE f.product_id = _product_id AND f.order_id IS NULL
            ORDER BY f.unit_no DESC
            LIMIT _before - _allotment
        ) AS spare
        WHERE u.product_id = _product_id AND u.unit_no = spare.unit_no;
    END IF;
    UPDATE products
    SET allotment = _allotment, epoch = epoch + 1, updated_at = clock_timestamp()
    WHERE product_id = _product_id;
    DELETE FROM gate_returns WHERE product_id = _product_id;
    PERFORM pg_notify('flashsale_products', _product_id::text);
    PERFORM change_stock_v1(ARRAY[_product_id], ARRAY[_allotment - _before]);
    RETURN QUERY SELECT 'changed', _claimed;
END;
$$;
