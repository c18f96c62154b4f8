-- Opens a payment attempt for each order that may be charged now, to be committed before the gateway is called.
-- An order whose attempt is open already (its worker died, or is slow) gets a new attempt under the same gateway key
-- and the old one is superseded: whatever the old worker brings home later is refused. Gives the attempts to make.
CREATE FUNCTION begin_payments_v1(_order_ids uuid [], _due interval)
RETURNS TABLE (order_id uuid, attempt integer, status text, gateway_key text, amount_minor bigint, currency text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _held uuid[];
    _begun uuid[];
BEGIN
    _held := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_order_ids)
            AND (
                o.status IN ('processing_payment', 'payment_unknown')
                OR (
                    o.status = 'awaiting_payment'
                    AND (o.payment_mode = 'automatic' OR o.pay_requested_at IS NOT NULL)
                )
            )
        ORDER BY o.order_id
        FOR NO KEY UPDATE
    );
    _begun := ARRAY(
        SELECT o.order_id FROM orders AS o WHERE o.order_id = ANY(_held) AND o.status = 'awaiting_payment'
    );
    UPDATE payment_attempts
    SET outcome = 'superseded', finished_at = clock_timestamp()
    WHERE order_id = ANY(_held) AND outcome IS NULL;
    UPDATE orders AS o
    SET
        status = CASE WHEN o.status = 'awaiting_payment' THEN 'processing_payment' ELSE o.status END,
        attempt = o.attempt + 1,
        due_at = clock_timestamp() + _due
    WHERE o.order_id = ANY(_held);
    INSERT INTO payment_attempts (order_id, attempt, gateway_key, amount_minor, currency)
    SELECT o.order_id, o.attempt, o.order_id::text, o.unit_price_minor * o.quantity, o.currency
    FROM orders AS o
    WHERE o.order_id = ANY(_held);
    PERFORM notify_orders_v1(_begun);
    RETURN QUERY
    SELECT a.order_id, a.attempt, o.status, a.gateway_key, a.amount_minor, a.currency
    FROM payment_attempts AS a
    INNER JOIN orders AS o ON a.order_id = o.order_id AND a.attempt = o.attempt
    WHERE a.order_id = ANY(_held);
END;
$$;
