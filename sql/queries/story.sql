-- name: order
-- Reads an order with its buyer, its units, and when and as what it is due.
SELECT
    o.order_id, o.user_id, u.email, u.name AS buyer_name, o.product_id, o.product_name, o.quantity, o.unit_price_minor,
    o.currency, o.status, o.payment_mode, o.due_at, r.key, r.request_id,
    ARRAY(SELECT n.unit_no FROM units AS n WHERE n.order_id = o.order_id ORDER BY n.unit_no) AS units
FROM orders AS o
INNER JOIN users AS u ON o.user_id = u.user_id
LEFT JOIN requests AS r ON o.order_id = r.order_id
WHERE o.order_id = $1;

-- name: archived
-- Reads when the rows of an order left the tables, and where the files are that have them.
SELECT a.begun_at, a.place
FROM archived_orders AS o
INNER JOIN sale_archives AS a ON o.product_id = a.product_id
WHERE o.order_id = $1;

-- name: entries
-- Reads what happened to an order, in the order of time, with the facts of each entry; NULL: there is no such fact.
SELECT e.at, e.kind, e.facts
FROM (
    SELECT v.at, 'status' AS kind, jsonb_build_object('status', v.status, 'version', v.version) AS facts
    FROM order_events AS v
    WHERE v.order_id = $1
    UNION ALL
    SELECT o.pay_requested_at, 'payment_requested', '{}'
    FROM orders AS o
    WHERE o.order_id = $1 AND o.pay_requested_at IS NOT NULL
    UNION ALL
    SELECT
        a.begun_at, 'payment_begun',
        jsonb_build_object(
            'attempt', a.attempt, 'key', a.gateway_key, 'amountMinor', a.amount_minor, 'currency', a.currency
        )
    FROM payment_attempts AS a
    WHERE a.order_id = $1
    UNION ALL
    SELECT
        a.finished_at, 'payment_ended',
        jsonb_build_object('attempt', a.attempt, 'outcome', a.outcome, 'reference', a.reference)
    FROM payment_attempts AS a
    WHERE a.order_id = $1 AND a.finished_at IS NOT NULL
    UNION ALL
    SELECT
        i.created_at, 'intent_begun',
        jsonb_build_object(
            'number', i.number, 'provider', i.provider, 'amountMinor', i.amount_minor, 'currency', i.currency
        )
    FROM payment_intents AS i
    WHERE i.order_id = $1
    UNION ALL
    SELECT
        i.updated_at, 'intent_changed',
        jsonb_build_object(
            'number', i.number, 'state', i.state, 'reference', i.reference, 'problem', i.problem, 'dueAt', i.due_at
        )
    FROM payment_intents AS i
    WHERE i.order_id = $1 AND i.state <> 'opening'
    UNION ALL
    SELECT
        w.received_at, 'webhook',
        jsonb_build_object(
            'provider', w.provider, 'type', w.type, 'event', w.event_id, 'reference', w.reference,
            'handledAt', w.taken_at
        )
    FROM (
        SELECT n.* FROM webhook_events AS n WHERE n.order_id = $1
        UNION ALL
        -- One that was not handled yet names only the provider's id.
        SELECT n.*
        FROM payment_intents AS i
        INNER JOIN webhook_events AS n ON i.provider = n.provider AND i.reference = n.reference
        WHERE i.order_id = $1 AND n.order_id IS NULL
    ) AS w
    UNION ALL
    SELECT
        m.recorded_at, CASE WHEN m.number = 0 THEN 'payment_recorded' ELSE 'refund_recorded' END,
        jsonb_build_object(
            'number', m.number, 'reference', m.reference, 'amountMinor', m.amount_minor, 'currency', m.currency,
            'by', m.recorded_by
        )
    FROM manual_entries AS m
    WHERE m.order_id = $1
    UNION ALL
    SELECT
        r.created_at, 'refund_requested',
        jsonb_build_object(
            'number', r.number, 'amountMinor', r.amount_minor, 'currency', r.currency, 'restock', r.restock,
            'reason', r.reason, 'by', r.requested_by
        )
    FROM refunds AS r
    WHERE r.order_id = $1
    UNION ALL
    SELECT
        coalesce(r.finished_at, r.due_at), CASE WHEN r.state = 'pending' THEN 'refund_due' ELSE 'refund_ended' END,
        jsonb_build_object(
            'number', r.number, 'state', r.state, 'reference', r.reference, 'tries', r.attempt, 'problem', r.problem
        )
    FROM refunds AS r
    WHERE r.order_id = $1
    UNION ALL
    SELECT
        min(w.at), 'job',
        jsonb_build_object('id', j.id, 'queue', j.queue_name, 'status', j.status, 'worker', j.worker_id)
    FROM procrastinate_jobs AS j
    INNER JOIN orders AS o ON j.id = o.job_id
    LEFT JOIN procrastinate_events AS w ON j.id = w.job_id
    WHERE o.order_id = $1
    GROUP BY j.id
    UNION ALL
    SELECT
        p.first_at, 'postponed',
        jsonb_build_object('job', p.job, 'problem', p.problem, 'times', p.times, 'until', p.until)
    FROM postponed_orders AS p
    WHERE p.order_id = $1
    UNION ALL
    SELECT o.updated_at, 'return_waits', jsonb_build_object('units', g.quantity, 'epoch', g.epoch)
    FROM gate_returns AS g
    INNER JOIN orders AS o ON g.order_id = o.order_id
    WHERE g.order_id = $1
) AS e
ORDER BY e.at NULLS LAST, e.kind;
