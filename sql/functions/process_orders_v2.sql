-- Moves queued orders to awaiting_payment through processing, after a check that each owns exactly its units, and
-- defers one payment job per order whose product is paid automatically. Orders in any other status are left alone, and
-- so are those that others hold locks on: they are due again. Gives the orders looked at and their status: one that is
-- still `queued` failed the check, and the caller has to end it, because that takes locks of its product.
CREATE FUNCTION process_orders_v2(_order_ids uuid [], _payment_due interval)
RETURNS TABLE (order_id uuid, status text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _held uuid[];
    _sound uuid[];
    _automatic uuid[];
    _job_ids bigint[];
BEGIN
    _held := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_order_ids) AND o.status = 'queued'
        ORDER BY o.order_id
        FOR NO KEY UPDATE SKIP LOCKED
    );
    IF cardinality(_held) = 0 THEN
        RETURN;
    END IF;
    _sound := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_held)
            AND o.quantity = (SELECT count(*) FROM units AS u WHERE u.order_id = o.order_id)
    );
    UPDATE orders SET status = 'processing' WHERE order_id = ANY(_sound);
    _automatic := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_sound) AND o.payment_mode = 'automatic'
        ORDER BY o.order_id
    );
    IF cardinality(_automatic) > 0 THEN
        _job_ids := defer_payment_jobs_v1(_automatic);
    END IF;
    UPDATE orders AS o
    SET
        status = 'awaiting_payment',
        job_id = i.job_id,
        due_at = clock_timestamp() + CASE
            WHEN i.job_id IS NULL THEN p.payment_window_s * interval '1 second'
            ELSE _payment_due
        END
    FROM
        products AS p,
        unnest(_sound) AS s (order_id)
    LEFT JOIN unnest(_automatic, _job_ids) AS i (order_id, job_id) ON s.order_id = i.order_id
    WHERE o.order_id = s.order_id AND p.product_id = o.product_id;
    PERFORM notify_orders_v2(_sound);
    RETURN QUERY SELECT o.order_id, o.status FROM orders AS o WHERE o.order_id = ANY(_held);
END;
$$;
