-- Writes what the gateway answered. Only the newest attempt of an order that is being paid counts: `captured`
-- confirms it, `declined` and `cancelled` end it and release its units, `unknown` leaves the units claimed and makes
-- the order due after _retry_after. Outcomes of other attempts change nothing. Gives the orders that were moved.
CREATE FUNCTION finish_payments_v1(
    _order_ids uuid [],
    _attempts integer [],
    _outcomes text [],
    _references text [],
    _retry_after interval []
)
RETURNS TABLE (order_id uuid, status text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _product_id integer;
    _held uuid[];
    _released uuid[];
BEGIN
    FOR _product_id IN
        SELECT DISTINCT o.product_id FROM orders AS o WHERE o.order_id = ANY(_order_ids) ORDER BY o.product_id
    LOOP
        PERFORM pg_advisory_xact_lock_shared(7000, _product_id);
    END LOOP;
    _held := ARRAY(
        SELECT o.order_id
        FROM orders AS o
        INNER JOIN unnest(_order_ids, _attempts) AS i (order_id, attempt)
            ON o.order_id = i.order_id AND o.attempt = i.attempt
        WHERE o.status IN ('processing_payment', 'payment_unknown')
        ORDER BY o.order_id
        FOR NO KEY UPDATE OF o
    );
    UPDATE payment_attempts AS a
    SET outcome = i.outcome, reference = i.reference, finished_at = clock_timestamp()
    FROM unnest(_order_ids, _attempts, _outcomes, _references) AS i (order_id, attempt, outcome, reference)
    WHERE a.order_id = i.order_id AND a.attempt = i.attempt AND a.outcome IS NULL AND a.order_id = ANY(_held);
    UPDATE orders AS o
    SET
        status = CASE
            WHEN i.outcome = 'captured' THEN 'confirmed'
            WHEN i.outcome = 'unknown' THEN 'payment_unknown'
            ELSE 'payment_failed'
        END,
        due_at = CASE WHEN i.outcome = 'unknown' THEN clock_timestamp() + i.retry_after END,
        job_id = NULL
    FROM unnest(_order_ids, _outcomes, _retry_after) AS i (order_id, outcome, retry_after)
    WHERE o.order_id = i.order_id AND o.order_id = ANY(_held);
    PERFORM notify_orders_v1(_held);
    _released := ARRAY(
        SELECT o.order_id FROM orders AS o WHERE o.order_id = ANY(_held) AND o.status = 'payment_failed'
    );
    IF cardinality(_released) > 0 THEN
        PERFORM release_units_v1(_released);
    END IF;
    RETURN QUERY SELECT o.order_id, o.status FROM orders AS o WHERE o.order_id = ANY(_held);
END;
$$;
