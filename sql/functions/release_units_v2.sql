-- Gives the units of orders back, in the transaction that ends them: units, the buyers' counts, a return for the gate
-- (under the epoch of now), the live count. The caller has moved the orders to a releasing status and holds the
-- shared product locks. An order that holds no units releases nothing.
CREATE FUNCTION release_units_v2(_order_ids uuid [])
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    _product_ids integer[];
    _deltas integer[];
BEGIN
    -- Buyers before units: the lock order of accept_orders.
    WITH released AS (
        SELECT o.product_id, o.user_id, sum(o.quantity) AS units
        FROM orders AS o
        WHERE o.order_id = ANY(_order_ids)
        GROUP BY o.product_id, o.user_id
    ),
    locked AS (
        SELECT b.product_id, b.user_id, r.units
        FROM buyer_units AS b
        INNER JOIN released AS r ON b.product_id = r.product_id AND b.user_id = r.user_id
        ORDER BY b.product_id, b.user_id
        FOR NO KEY UPDATE OF b
    )
    UPDATE buyer_units AS b
    SET units = b.units - l.units
    FROM locked AS l
    WHERE b.product_id = l.product_id AND b.user_id = l.user_id;

    WITH freed AS (
        UPDATE units SET order_id = NULL WHERE order_id = ANY(_order_ids) RETURNING product_id
    ),
    counted AS (
        SELECT f.product_id, count(*)::integer AS units FROM freed AS f GROUP BY f.product_id
    )
    SELECT array_agg(c.product_id ORDER BY c.product_id), array_agg(c.units ORDER BY c.product_id)
    INTO _product_ids, _deltas
    FROM counted AS c;

    INSERT INTO gate_returns (order_id, product_id, epoch, user_id, quantity)
    SELECT o.order_id, o.product_id, p.epoch, o.user_id, o.quantity
    FROM orders AS o
    INNER JOIN products AS p ON o.product_id = p.product_id
    WHERE o.order_id = ANY(_order_ids);

    IF _product_ids IS NOT NULL THEN
        PERFORM change_stock_v2(_product_ids, _deltas);
    END IF;
END;
$$;
