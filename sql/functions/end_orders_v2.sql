-- Ends orders before any payment attempt and releases their units: _status is `expired` (due orders that wait for
-- their buyer), `cancelled` (orders that wait for payment) or `failed` (no payment attempt was ever begun).
-- Orders that may not end so are left alone. Gives the ids of those that ended.
CREATE FUNCTION end_orders_v2(_order_ids uuid [], _status text)
RETURNS SETOF uuid
LANGUAGE plpgsql
AS $$
DECLARE
    _ended uuid[];
    _product_id integer;
BEGIN
    FOR _product_id IN
        SELECT DISTINCT o.product_id FROM orders AS o WHERE o.order_id = ANY(_order_ids) ORDER BY o.product_id
    LOOP
        PERFORM pg_advisory_xact_lock_shared(7000, _product_id);
    END LOOP;
    _ended := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_order_ids)
            AND CASE _status
                WHEN 'expired' THEN
                    o.status = 'awaiting_payment' AND o.payment_mode = 'by_buyer'
                    AND o.pay_requested_at IS NULL AND o.due_at <= clock_timestamp()
                WHEN 'cancelled' THEN
                    o.status = 'awaiting_payment' AND o.pay_requested_at IS NULL
                WHEN 'failed' THEN
                    o.status IN ('queued', 'processing', 'awaiting_payment') AND o.attempt = 0
                ELSE false
            END
        ORDER BY o.order_id
        FOR NO KEY UPDATE
    );
    UPDATE orders SET status = _status, due_at = NULL, job_id = NULL WHERE order_id = ANY(_ended);
    PERFORM notify_orders_v2(_ended);
    IF cardinality(_ended) > 0 THEN
        PERFORM release_units_v2(_ended);
    END IF;
    RETURN QUERY SELECT unnest(_ended);
END;
$$;
