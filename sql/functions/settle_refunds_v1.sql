-- Brings an order to what its refunds say, in the transaction that changed one of them: `refunded` if all of the money
-- is back, `refund_pending` if an open refund covers what is left, `confirmed` otherwise. Releases the units, once, if
-- the refund that completed the sum restocks. The caller holds the order's row, and before it the product's shared lock
-- if units may be released. A refunded order stays refunded.
CREATE FUNCTION settle_refunds_v1(_order_id uuid)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    _was text;
    _becomes text;
    _price bigint;
    _refunded bigint;
    _pending bigint;
    _restock boolean;
BEGIN
    SELECT o.status, o.unit_price_minor * o.quantity INTO STRICT _was, _price
    FROM orders AS o WHERE o.order_id = _order_id;
    SELECT
        coalesce(sum(r.amount_minor) FILTER (WHERE r.state = 'succeeded'), 0),
        coalesce(sum(r.amount_minor) FILTER (WHERE r.state = 'pending'), 0),
        coalesce(bool_or(r.restock) FILTER (WHERE r.state = 'succeeded'), false)
    INTO _refunded, _pending, _restock
    FROM refunds AS r WHERE r.order_id = _order_id;
    _becomes := CASE
        WHEN _was = 'refunded' OR _refunded = _price THEN 'refunded'
        WHEN _pending > 0 AND _refunded + _pending >= _price THEN 'refund_pending'
        ELSE 'confirmed'
    END;
    IF _was = 'confirmed' AND _becomes = 'refunded' THEN
        UPDATE orders SET status = 'refund_pending', due_at = clock_timestamp() WHERE order_id = _order_id;
    END IF;
    -- The refund's own due time wakes it. That of the order is later, so that no sweep makes another job.
    UPDATE orders
    SET
        status = _becomes,
        refunded_minor = _refunded,
        restocked = restocked OR (_becomes = 'refunded' AND _restock),
        due_at = CASE WHEN _becomes = 'refund_pending' THEN clock_timestamp() + interval '10 minutes' END,
        job_id = NULL
    WHERE order_id = _order_id;
    IF _was <> 'refunded' AND _becomes = 'refunded' AND _restock THEN
        PERFORM release_units_v2(ARRAY[_order_id]);
    END IF;
    IF _was <> _becomes THEN
        PERFORM notify_orders_v2(ARRAY[_order_id]);
    END IF;
END;
$$;
