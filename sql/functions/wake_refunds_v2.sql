-- Wakes up to _limit refunds that are due: those whose job still waits are due again later, the others get a new job.
-- Refunds that others hold are left for the next time. Gives how many got a job.
CREATE FUNCTION wake_refunds_v2(_limit integer, _due interval)
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    -- A constant, so that an index finds what is due: clock_timestamp() is another time for each row.
    _now constant timestamptz := clock_timestamp();
    _held uuid[];
    _jobless uuid[];
BEGIN
    _held := ARRAY(
        SELECT r.order_id FROM refunds AS r
        WHERE r.due_at <= _now
        ORDER BY r.due_at
        LIMIT _limit
        FOR NO KEY UPDATE SKIP LOCKED
    );
    _jobless := ARRAY(
        SELECT r.order_id FROM refunds AS r
        WHERE r.order_id = ANY(_held) AND r.state = 'pending'
            AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs AS j WHERE j.id = r.job_id AND j.status = 'todo')
        ORDER BY r.order_id
    );
    UPDATE refunds SET due_at = _now + _due WHERE order_id = ANY(_held) AND state = 'pending';
    IF cardinality(_jobless) > 0 THEN
        UPDATE refunds AS r
        SET job_id = i.job_id
        FROM unnest(_jobless, defer_refund_jobs_v1(_jobless)) AS i (order_id, job_id)
        WHERE r.order_id = i.order_id AND r.state = 'pending';
    END IF;
    RETURN cardinality(_jobless);
END;
$$;
