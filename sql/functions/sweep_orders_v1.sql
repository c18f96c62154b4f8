-- Wakes up to _limit due orders: those that waited too long for their buyer expire; those whose job still waits are
-- due again later; the others get a new job. Gives how many expired, and how many got a new job.
CREATE FUNCTION sweep_orders_v1(_limit integer, _due interval)
RETURNS TABLE (expired integer, deferred integer, looked_at integer)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _held uuid[];
    _expired uuid[];
    _jobless uuid[];
    _queued uuid[];
    _paying uuid[];
    _job_id bigint;
BEGIN
    -- Product locks come first everywhere; which products is only known after a look.
    PERFORM pg_advisory_xact_lock_shared(7000, d.product_id)
    FROM (
        SELECT DISTINCT s.product_id
        FROM (
            SELECT o.product_id FROM orders AS o
            WHERE o.due_at <= clock_timestamp() ORDER BY o.due_at LIMIT _limit
        ) AS s
        ORDER BY s.product_id
    ) AS d;
    _held := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.due_at <= clock_timestamp()
        ORDER BY o.due_at
        LIMIT _limit
        FOR NO KEY UPDATE SKIP LOCKED
    );
    _expired := ARRAY(SELECT e FROM end_orders_v1(_held, 'expired') AS e);
    UPDATE orders AS o
    SET due_at = clock_timestamp() + _due
    WHERE o.order_id = ANY(_held) AND o.due_at IS NOT NULL;
    _jobless := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_held) AND o.due_at IS NOT NULL
            AND NOT EXISTS (
                SELECT 1 FROM procrastinate_jobs AS j WHERE j.id = o.job_id AND j.status = 'todo'
            )
        ORDER BY o.order_id
    );
    _queued := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_jobless) AND o.status IN ('queued', 'processing')
    );
    _paying := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_jobless) AND o.status NOT IN ('queued', 'processing') ORDER BY o.order_id
    );
    IF cardinality(_queued) > 0 THEN
        _job_id := defer_order_job_v1(_queued);
        UPDATE orders SET job_id = _job_id WHERE order_id = ANY(_queued);
    END IF;
    IF cardinality(_paying) > 0 THEN
        UPDATE orders AS o
        SET job_id = i.job_id
        FROM unnest(_paying, defer_payment_jobs_v1(_paying)) AS i (order_id, job_id)
        WHERE o.order_id = i.order_id;
    END IF;
    RETURN QUERY SELECT cardinality(_expired), cardinality(_jobless), cardinality(_held);
END;
$$;
