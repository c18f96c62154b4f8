-- name: orders_by_status
-- Counts orders and their prices by status and currency, with the age in seconds of the one that changed longest ago
-- among those that were read: every order that is not final, and the final ones that the totals do not count yet.
WITH latest AS (
    SELECT o.order_id, o.status, o.currency, o.unit_price_minor * o.quantity AS value_minor, o.updated_at
    FROM orders AS o
    WHERE o.order_id > (SELECT m.order_id FROM order_mark AS m)
),
stragglers AS (
    SELECT o.status, s.counted, o.currency, o.unit_price_minor * o.quantity AS value_minor, o.updated_at
    FROM order_stragglers AS s
    CROSS JOIN LATERAL (SELECT f.* FROM orders AS f WHERE f.order_id = s.order_id OFFSET 0) AS o
),
summed AS (
    SELECT t.status, t.currency, t.orders, t.value_minor, NULL::timestamptz AS changed_at FROM order_totals AS t
    UNION ALL
    SELECT l.status, l.currency, 1, l.value_minor, l.updated_at FROM latest AS l
    UNION ALL
    SELECT s.status, s.currency, 1, s.value_minor, s.updated_at FROM stragglers AS s
    UNION ALL
    SELECT s.counted, s.currency, -1, -s.value_minor, NULL FROM stragglers AS s WHERE s.counted IS NOT NULL
)
SELECT
    s.status, s.currency, sum(s.orders)::bigint AS orders, sum(s.value_minor)::bigint AS value_minor,
    coalesce(extract(EPOCH FROM clock_timestamp() - min(s.changed_at)), 0)::float8 AS oldest_s
FROM summed AS s
GROUP BY s.status, s.currency
HAVING sum(s.orders) > 0;

-- name: order_times
-- Quantiles of the seconds from 202 to the final state, or until now, of the orders of the last five minutes that are
-- charged without waiting for their buyer. Order ids begin with their time.
SELECT
    percentile_cont($1::float8 []) WITHIN GROUP (
        ORDER BY extract(EPOCH FROM CASE WHEN due_at IS NULL THEN updated_at ELSE clock_timestamp() END - created_at)
    ) AS seconds
FROM orders
WHERE payment_mode = 'automatic' AND order_id >= first_order_id_v1(now() - interval '5 minutes');

-- name: jobs_by_queue
-- Counts jobs by queue and status, with the age in seconds of the one that was deferred first.
WITH counted AS (
    SELECT queue_name, status, count(*) AS jobs, min(id) AS oldest FROM procrastinate_jobs GROUP BY queue_name, status
)
SELECT
    c.queue_name AS queue, c.status::text, c.jobs,
    coalesce(
        extract(
            EPOCH FROM clock_timestamp() - (SELECT min(e.at) FROM procrastinate_events AS e WHERE e.job_id = c.oldest)
        ),
        0
    )::float8 AS oldest_s
FROM counted AS c;

-- name: outbox_by_target
-- Counts the messages of each target that wait and that are dead, with the age in seconds of the one that waits longest.
WITH waiting AS (
    SELECT o.target_id, count(*) AS messages, min(coalesce(o.resent_at, o.created_at)) AS oldest
    FROM outbox AS o
    WHERE o.due_at IS NOT NULL
    GROUP BY o.target_id
),
dead AS (
    SELECT o.target_id, count(*) AS messages
    FROM outbox AS o
    WHERE o.due_at IS NULL AND o.outcome = 'dead'
    GROUP BY o.target_id
)
SELECT
    t.target_id AS target, coalesce(w.messages, 0) AS waiting, coalesce(d.messages, 0) AS dead,
    coalesce(extract(EPOCH FROM clock_timestamp() - w.oldest), 0)::float8 AS oldest_s
FROM outbox_targets AS t
LEFT JOIN waiting AS w ON t.target_id = w.target_id
LEFT JOIN dead AS d ON t.target_id = d.target_id;

-- name: server
-- Reads the share of the server's notification queue in use, 0 to 1, and how many connections there are of how many.
SELECT
    pg_notification_queue_usage() AS notify_queue_usage,
    -- Of the sessions of others an ordinary user sees no more than whose they are and in which database.
    (SELECT count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datid IS NOT NULL) AS connections,
    current_setting('max_connections')::integer AS connections_max;

-- name: counted_products
-- Reads epoch, allotment, free units and those whose return is on its way to the gate, of the newest products
-- that are not archived.
SELECT
    p.product_id, p.epoch, p.allotment, l.free,
    coalesce((SELECT sum(r.quantity) FROM gate_returns AS r WHERE r.product_id = p.product_id), 0)::integer AS on_return
FROM products AS p
INNER JOIN product_live AS l ON p.product_id = l.product_id
WHERE p.archived_at IS NULL
ORDER BY p.product_id DESC
LIMIT $1;

-- name: sales
-- Counts the units of products by the status of their orders, and the prices of these orders in minor units.
WITH summed AS (
    SELECT t.product_id, t.status, t.units, t.value_minor FROM order_totals AS t
    UNION ALL
    SELECT o.product_id, o.status, o.quantity, o.unit_price_minor * o.quantity
    FROM orders AS o
    WHERE o.order_id > (SELECT m.order_id FROM order_mark AS m)
    UNION ALL
    SELECT o.product_id, o.status, o.quantity, o.unit_price_minor * o.quantity
    FROM order_stragglers AS s
    CROSS JOIN LATERAL (SELECT f.* FROM orders AS f WHERE f.order_id = s.order_id OFFSET 0) AS o
    UNION ALL
    SELECT o.product_id, s.counted, -o.quantity, -o.unit_price_minor * o.quantity
    FROM order_stragglers AS s
    CROSS JOIN LATERAL (SELECT f.* FROM orders AS f WHERE f.order_id = s.order_id OFFSET 0) AS o
    WHERE s.counted IS NOT NULL
)
SELECT s.product_id, s.status, sum(s.units)::bigint AS units, sum(s.value_minor)::bigint AS value_minor
FROM summed AS s
WHERE s.product_id = ANY($1::integer [])
GROUP BY s.product_id, s.status;

-- name: sales_and_refunds
-- Counts the units of products by the status of their orders, the prices of these orders, and what of these was given
-- back, in minor units: of a refunded order all, of another one what the order says.
WITH summed AS (
    SELECT t.product_id, t.status, t.units, t.value_minor, 0 AS refunded_minor FROM order_totals AS t
    UNION ALL
    SELECT o.product_id, o.status, o.quantity, o.unit_price_minor * o.quantity, 0
    FROM orders AS o
    WHERE o.order_id > (SELECT m.order_id FROM order_mark AS m)
    UNION ALL
    SELECT o.product_id, o.status, o.quantity, o.unit_price_minor * o.quantity, 0
    FROM order_stragglers AS s
    CROSS JOIN LATERAL (SELECT f.* FROM orders AS f WHERE f.order_id = s.order_id OFFSET 0) AS o
    UNION ALL
    SELECT o.product_id, s.counted, -o.quantity, -o.unit_price_minor * o.quantity, 0
    FROM order_stragglers AS s
    CROSS JOIN LATERAL (SELECT f.* FROM orders AS f WHERE f.order_id = s.order_id OFFSET 0) AS o
    WHERE s.counted IS NOT NULL
    UNION ALL
    SELECT o.product_id, o.status, 0, 0, o.refunded_minor
    FROM orders AS o
    WHERE o.product_id = ANY($1::integer []) AND o.refunded_minor > 0 AND o.status <> 'refunded'
    UNION ALL
    SELECT a.product_id, a.status, 0, 0, a.refunded_minor
    FROM archived_orders AS a
    WHERE a.product_id = ANY($1::integer []) AND a.refunded_minor > 0 AND a.status <> 'refunded'
)
SELECT
    s.product_id, s.status, sum(s.units)::bigint AS units, sum(s.value_minor)::bigint AS value_minor,
    sum(CASE WHEN s.status = 'refunded' THEN s.value_minor ELSE s.refunded_minor END)::bigint AS refunded_minor
FROM summed AS s
WHERE s.product_id = ANY($1::integer [])
GROUP BY s.product_id, s.status;

-- name: pace
-- Orders accepted and orders confirmed per second in the last 10 seconds; workers that reported within 30 seconds.
SELECT
    count(*) FILTER (WHERE o.order_id >= first_order_id_v1(now() - interval '10 seconds')) / 10.0::float8 AS accepted_per_s,
    count(*) FILTER (WHERE o.status = 'confirmed' AND o.updated_at >= now() - interval '10 seconds')
    / 10.0::float8 AS confirmed_per_s,
    (
        SELECT count(*) FROM procrastinate_workers AS w WHERE w.last_heartbeat >= now() - interval '30 seconds'
    ) AS workers,
    (SELECT count(*) FROM postponed_orders) AS postponed
FROM orders AS o
WHERE o.order_id >= first_order_id_v1(now() - interval '5 minutes');

-- name: recent_attempts
-- Counts the payment attempts of the orders of the last five minutes by outcome; `open`: the gateway is being asked.
SELECT coalesce(a.outcome, 'open') AS outcome, count(*) AS attempts
FROM payment_attempts AS a
WHERE a.order_id >= first_order_id_v1(now() - interval '5 minutes')
GROUP BY a.outcome;
