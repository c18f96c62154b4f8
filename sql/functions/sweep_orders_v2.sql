-- Wakes orders that are due: those that waited too long for their buyer expire; those whose job still waits are due
-- again later; the others get a new job. Orders that others hold locks on are left for the next sweep.
--
-- Only an expiry needs more than the order's own row. Without _patience it takes every lock or none: orders of a product
-- whose lock, buyer or live row is taken stay due, and the product is given as busy. With _patience, meant for orders of
-- one product, it waits so long for each lock.
-- Lock order with _patience: products (advisory, shared), orders, buyers, units, product_live. Without it nothing is
-- waited for, so product_live may come before units.
CREATE FUNCTION sweep_orders_v2(_order_ids uuid [], _due interval, _patience interval)
RETURNS TABLE (expired integer, deferred integer, busy integer [])
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _now constant timestamptz := clock_timestamp();
    _product_id integer;
    _free integer[] := '{}';
    _held uuid[];
    _unpaid uuid[];
    _ending uuid[];
    _jobless uuid[];
    _queued uuid[];
    _paying uuid[];
    _job_id bigint;
BEGIN
    FOR _product_id IN
        SELECT DISTINCT o.product_id FROM orders AS o
        WHERE o.order_id = ANY(_order_ids) AND o.status = 'awaiting_payment' AND o.payment_mode = 'by_buyer'
            AND o.pay_requested_at IS NULL
        ORDER BY o.product_id
    LOOP
        IF _patience IS NOT NULL THEN
            PERFORM set_config('lock_timeout', extract(EPOCH FROM _patience)::text || 's', true);
            PERFORM pg_advisory_xact_lock_shared(7000, _product_id);
            _free := _free || _product_id;
        ELSIF pg_try_advisory_xact_lock_shared(7000, _product_id) THEN
            _free := _free || _product_id;
        END IF;
    END LOOP;
    _held := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_order_ids) AND o.due_at <= _now
        ORDER BY o.order_id
        FOR NO KEY UPDATE SKIP LOCKED
    );
    _unpaid := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_held) AND o.status = 'awaiting_payment' AND o.payment_mode = 'by_buyer'
            AND o.pay_requested_at IS NULL
    );
    _ending := ARRAY(
        SELECT o.order_id FROM orders AS o WHERE o.order_id = ANY(_unpaid) AND o.product_id = ANY(_free)
    );
    IF _patience IS NULL AND cardinality(_ending) > 0 THEN
        WITH buyers AS (
            SELECT b.product_id, b.user_id FROM buyer_units AS b
            WHERE (b.product_id, b.user_id) IN (
                SELECT o.product_id, o.user_id FROM orders AS o WHERE o.order_id = ANY(_ending)
            )
            FOR NO KEY UPDATE SKIP LOCKED
        )
        SELECT coalesce(array_agg(o.order_id), '{}') INTO _ending
        FROM orders AS o
        INNER JOIN buyers AS b ON o.product_id = b.product_id AND o.user_id = b.user_id
        WHERE o.order_id = ANY(_ending);
        WITH live AS (
            SELECT l.product_id FROM product_live AS l
            WHERE l.product_id IN (SELECT o.product_id FROM orders AS o WHERE o.order_id = ANY(_ending))
            FOR NO KEY UPDATE SKIP LOCKED
        )
        SELECT coalesce(array_agg(o.order_id), '{}') INTO _ending
        FROM orders AS o
        INNER JOIN live AS l ON o.product_id = l.product_id
        WHERE o.order_id = ANY(_ending);
    END IF;
    IF cardinality(_ending) > 0 THEN
        PERFORM end_orders_v2(_ending, 'expired');
    END IF;
    UPDATE orders AS o
    SET due_at = clock_timestamp() + _due
    WHERE o.order_id = ANY(_held) AND o.order_id <> ALL(_unpaid);
    _jobless := ARRAY(
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id = ANY(_held) AND o.order_id <> ALL(_unpaid) AND o.due_at IS NOT NULL
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
    RETURN QUERY
    SELECT
        cardinality(_ending), cardinality(_jobless),
        ARRAY(
            SELECT DISTINCT o.product_id FROM orders AS o
            WHERE o.order_id = ANY(_unpaid) AND o.order_id <> ALL(_ending)
        );
EXCEPTION
    WHEN lock_not_available THEN
        -- Nothing was changed; only one that waits gets here.
        RETURN QUERY
        SELECT 0, 0, ARRAY(SELECT DISTINCT o.product_id FROM orders AS o WHERE o.order_id = ANY(_order_ids));
END;
$$;
