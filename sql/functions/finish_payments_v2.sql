-- Writes what the gateway answered. Only the newest attempt of an order that is being paid counts: `captured`
-- confirms it, `declined` and `cancelled` end it and release its units, `unknown` leaves the units claimed and makes
-- the order due after _retry_after. `unsent` (the gateway never saw the call, or refused it before it looked at it) leaves
-- the order where it is, due after _retry_after too. Outcomes of other attempts change nothing. An order that somebody
-- else holds is given back as `busy`; nothing was written of it. Gives the orders that were moved or left, and where.
CREATE FUNCTION finish_payments_v2(
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
    _moved uuid[];
    _released uuid[];
BEGIN
    -- Only what gives units back needs the products' locks.
    FOR _product_id IN
        SELECT DISTINCT o.product_id
        FROM orders AS o
        INNER JOIN unnest(_order_ids, _outcomes) AS i (order_id, outcome) ON o.order_id = i.order_id
        WHERE i.outcome IN ('declined', 'cancelled')
        ORDER BY o.product_id
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
        FOR NO KEY UPDATE OF o SKIP LOCKED
    );
    UPDATE payment_attempts AS a
    SET outcome = i.outcome, reference = i.reference, finished_at = clock_timestamp()
    FROM unnest(_order_ids, _attempts, _outcomes, _references) AS i (order_id, attempt, outcome, reference)
    WHERE a.order_id = i.order_id AND a.attempt = i.attempt AND a.outcome IS NULL AND a.order_id = ANY(_held);
    UPDATE orders AS o
    SET
        status = CASE i.outcome
            WHEN 'captured' THEN 'confirmed'
            WHEN 'unknown' THEN 'payment_unknown'
            WHEN 'unsent' THEN o.status
            ELSE 'payment_failed'
        END,
        due_at = CASE WHEN i.outcome IN ('unknown', 'unsent') THEN clock_timestamp() + i.retry_after END,
        job_id = NULL
    FROM unnest(_order_ids, _outcomes, _retry_after) AS i (order_id, outcome, retry_after)
    WHERE o.order_id = i.order_id AND o.order_id = ANY(_held);
    _moved := ARRAY(
        SELECT i.order_id FROM unnest(_order_ids, _outcomes) AS i (order_id, outcome)
        WHERE i.order_id = ANY(_held) AND i.outcome <> 'unsent'
    );
    PERFORM notify_orders_v2(_moved);
    _released := ARRAY(
        SELECT o.order_id FROM orders AS o WHERE o.order_id = ANY(_held) AND o.status = 'payment_failed'
    );
    IF cardinality(_released) > 0 THEN
        PERFORM release_units_v2(_released);
    END IF;
    RETURN QUERY
    SELECT o.order_id, o.status FROM orders AS o WHERE o.order_id = ANY(_held)
    UNION ALL
    SELECT o.order_id, 'busy'
    FROM orders AS o
    INNER JOIN unnest(_order_ids, _attempts) AS i (order_id, attempt)
        ON o.order_id = i.order_id AND o.attempt = i.attempt
    WHERE o.order_id <> ALL(_held) AND o.status IN ('processing_payment', 'payment_unknown');
END;
$$;
