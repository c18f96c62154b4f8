-- Makes jobs for what is due of the payment provider: _intents_max intents that are to be looked at, cancelled or given
-- back, those that are due longest first, and _events_max webhooks whose job was lost. What still has a waiting job is
-- only due again after _due, like the others. Gives how many jobs were made.
CREATE FUNCTION wake_payments_v2(_intents_max integer, _events_max integer, _due interval)
RETURNS TABLE (intents integer, events integer)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    -- A constant, so that an index finds what is due: clock_timestamp() is another time for each row.
    _now constant timestamptz := clock_timestamp();
    _order_ids uuid[];
    _numbers integer[];
    _providers text[];
    _event_ids text[];
    _references text[];
BEGIN
    WITH due AS (
        SELECT i.order_id, i.number
        FROM payment_intents AS i
        WHERE i.due_at <= _now
        ORDER BY i.due_at
        LIMIT _intents_max
        FOR UPDATE SKIP LOCKED
    ),
    later AS (
        UPDATE payment_intents AS i
        SET due_at = _now + _due
        FROM due AS d
        WHERE i.order_id = d.order_id AND i.number = d.number
        RETURNING i.order_id, i.number, i.job_id
    )
    SELECT array_agg(l.order_id ORDER BY l.order_id, l.number), array_agg(l.number ORDER BY l.order_id, l.number)
    INTO _order_ids, _numbers
    FROM later AS l
    WHERE NOT EXISTS (SELECT 1 FROM procrastinate_jobs AS j WHERE j.id = l.job_id AND j.status = 'todo');
    IF _order_ids IS NOT NULL THEN
        UPDATE payment_intents AS i
        SET job_id = n.job_id
        FROM unnest(_order_ids, _numbers, defer_intent_jobs_v1(_order_ids, _numbers)) AS n (order_id, number, job_id)
        WHERE i.order_id = n.order_id AND i.number = n.number;
    END IF;

    WITH due AS (
        SELECT e.provider, e.event_id
        FROM webhook_events AS e
        WHERE e.due_at <= _now
        ORDER BY e.due_at
        LIMIT _events_max
        FOR UPDATE SKIP LOCKED
    ),
    later AS (
        UPDATE webhook_events AS e
        SET due_at = _now + _due
        FROM due AS d
        WHERE e.provider = d.provider AND e.event_id = d.event_id
        RETURNING e.provider, e.event_id, e.reference, e.job_id
    )
    SELECT
        array_agg(l.provider ORDER BY l.provider, l.event_id), array_agg(l.event_id ORDER BY l.provider, l.event_id),
        array_agg(l.reference ORDER BY l.provider, l.event_id)
    INTO _providers, _event_ids, _references
    FROM later AS l
    WHERE NOT EXISTS (SELECT 1 FROM procrastinate_jobs AS j WHERE j.id = l.job_id AND j.status = 'todo');
    IF _event_ids IS NOT NULL THEN
        UPDATE webhook_events AS e
        SET job_id = n.job_id
        FROM unnest(
            _providers, _event_ids, defer_event_jobs_v1(_providers, _event_ids, _references)
        ) AS n (provider, event_id, job_id)
        WHERE e.provider = n.provider AND e.event_id = n.event_id;
    END IF;
    RETURN QUERY SELECT coalesce(cardinality(_order_ids), 0), coalesce(cardinality(_event_ids), 0);
END;
$$;
