-- Lets a product's free units leave for another cell, under the product's exclusive lock: the allotment becomes what orders
-- hold, the product is archived, and a row of product_departures says what left. Nothing of it is for sale here again.
-- Gives `left`, or `before` if its units left already, whichever the cell; or why nothing was changed: what
-- archive_product_v1 says (`on_sale`, `orders`, `refunds`, `unknown`), `archived` (it was), `none` (no unit is free), `limits`
-- (buyers hold units, and its limit per buyer would count them no more: unless _limits_anew).
CREATE FUNCTION leave_cell_v1(_product_id integer, _move_id uuid, _to_cell integer, _limits_anew boolean)
RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    _now timestamptz;
    _product products;
    _free integer;
    _result text;
BEGIN
    PERFORM pg_advisory_xact_lock(7000, _product_id);
    _now := clock_timestamp();
    IF EXISTS (SELECT 1 FROM product_departures AS d WHERE d.product_id = _product_id) THEN
        RETURN 'before';
    END IF;
    SELECT * INTO _product FROM products AS p WHERE p.product_id = _product_id;
    SELECT l.free INTO _free FROM product_live AS l WHERE l.product_id = _product_id;
    IF _product.archived_at IS NOT NULL THEN
        RETURN 'archived';
    END IF;
    BEGIN
        PERFORM s.result FROM set_allotment_v2(_product_id, _product.allotment - _free) AS s;
        _result := archive_product_v1(_product_id);
        IF _result = 'archived' AND _free = 0 THEN
            _result := 'none';
        ELSIF
            _result = 'archived' AND NOT _limits_anew AND _product.limit_per_buyer IS NOT NULL
            AND EXISTS (SELECT 1 FROM buyer_units AS b WHERE b.product_id = _product_id AND b.units > 0)
        THEN
            _result := 'limits';
        END IF;
        IF _result <> 'archived' THEN
            -- Undoes this block alone.
            RAISE EXCEPTION USING ERRCODE = 'raise_exception';
        END IF;
    EXCEPTION WHEN raise_exception THEN
        RETURN _result;
    END;
    -- Nobody took the last free unit.
    DELETE FROM outbox AS m WHERE m.product_id = _product_id AND m.event = 'stock.sold_out' AND m.created_at >= _now;
    INSERT INTO product_departures (product_id, move_id, to_cell, units, paused, left_at)
    VALUES (_product_id, _move_id, _to_cell, _free, _product.paused, _now);
    RETURN 'left';
END;
$$;
