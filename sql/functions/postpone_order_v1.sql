-- Notes that Postgres refused to move an order, so that no batch meets it again for a while: _pause after the first
-- refusal, twice as long after each further one of the same order in the same state, at most _pause_max. Gives how
-- often it was refused.
CREATE FUNCTION postpone_order_v1(_order_id uuid, _job text, _problem text, _pause interval, _pause_max interval)
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    _times integer;
    _until timestamptz;
BEGIN
    INSERT INTO postponed_orders AS p (order_id, version, job, problem, until)
    SELECT o.order_id, o.version, _job, _problem, clock_timestamp() + least(_pause, _pause_max)
    FROM orders AS o
    WHERE o.order_id = _order_id
    ON CONFLICT (order_id) DO UPDATE
    SET
        version = excluded.version,
        job = excluded.job,
        problem = excluded.problem,
        times = CASE WHEN p.version = excluded.version THEN p.times ELSE 0 END + 1,
        first_at = CASE WHEN p.version = excluded.version THEN p.first_at ELSE excluded.first_at END,
        last_at = excluded.last_at,
        until = clock_timestamp()
            + least(_pause * 2 ^ CASE WHEN p.version = excluded.version THEN least(p.times, 16) ELSE 0 END, _pause_max)
    RETURNING p.times, p.until INTO _times, _until;
    BEGIN
        UPDATE orders SET due_at = _until WHERE order_id = _order_id AND due_at IS NOT NULL;
    EXCEPTION WHEN OTHERS THEN
        -- Not even that is taken. What is due is read without those that are postponed.
        NULL;
    END;
    RETURN coalesce(_times, 0);
END;
$$;
