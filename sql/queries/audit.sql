-- name: mark
-- Reads the order id up to which final orders are in the totals.
SELECT order_id FROM order_mark;

-- name: outcomes
-- Reads every order for a comparison with what clients saw and with the provider's ledger; of those that are in files
-- only, what stays of them.
SELECT
    o.order_id::text AS order_id, o.user_id::text AS user_id, r.key, o.status, o.version, o.product_id, o.product_name,
    coalesce(o.quantity, 0) AS quantity, coalesce(o.unit_price_minor, 0) AS unit_price_minor, o.currency,
    coalesce(o.unit_price_minor * o.quantity, 0) AS price_minor, coalesce(o.refunded_minor, 0) AS refunded_minor,
    coalesce((
        SELECT sum(f.amount_minor) FROM refunds AS f WHERE f.order_id = o.order_id AND f.state = 'pending'
    ), 0)::bigint AS refunding_minor,
    coalesce(extract(EPOCH FROM o.created_at), 0)::float8 AS created_at_s,
    coalesce(extract(EPOCH FROM clock_timestamp() - o.due_at), 0)::float8 AS overdue_s
FROM orders AS o
LEFT JOIN requests AS r ON o.order_id = r.order_id
UNION ALL
SELECT
    a.order_id::text, a.user_id::text, NULL, a.status, a.version, a.product_id, a.product_name, coalesce(a.quantity, 0),
    coalesce(a.unit_price_minor, 0), a.currency, coalesce(a.unit_price_minor * a.quantity, 0),
    coalesce(a.refunded_minor, 0), 0, coalesce(extract(EPOCH FROM a.created_at), 0)::float8, 0
FROM archived_orders AS a;

-- name: fingerprints
-- Reads what keys were used for: a row for each product, quantity and fingerprint that orders with a key have, with the
-- number of these orders and the id of one.
SELECT
    o.product_id, o.quantity, r.fingerprint, count(*) AS orders, min(o.order_id::text) AS order_id,
    (array_agg(o.user_id))[1] AS user_id
FROM requests AS r
INNER JOIN orders AS o ON r.order_id = o.order_id
WHERE r.key IS NOT NULL AND o.product_id IS NOT NULL AND o.quantity IS NOT NULL
GROUP BY o.product_id, o.quantity, r.fingerprint;

-- name: captured_references
-- Reads the references under which the gateway's keys were captured.
SELECT a.gateway_key, a.reference FROM payment_attempts AS a WHERE a.outcome = 'captured';

-- name: last_outcomes
-- Reads the outcome of the newest attempt of each order whose payment failed.
SELECT a.gateway_key, a.outcome
FROM payment_attempts AS a
INNER JOIN orders AS o ON a.order_id = o.order_id AND a.attempt = o.attempt
WHERE o.status = 'payment_failed';

-- name: events_seen
-- Reads the statuses of orders by version, as clients see it on this time line.
SELECT e.order_id::text AS order_id, coalesce(e.version + t.base, 0) AS version, e.status
FROM order_events AS e
CROSS JOIN timeline AS t
WHERE e.order_id = ANY($1::uuid []);

-- name: allotments
-- Reads how many units products had at first and at most.
SELECT t.product_id, (array_agg(t.allotment ORDER BY t.valid_from))[1] AS first, max(t.allotment) AS most
FROM product_terms AS t
WHERE t.allotment IS NOT NULL
GROUP BY t.product_id;

-- name: unit_changes
-- Reads when units of a product were claimed and released, and when there were more or fewer: the instant, in Unix
-- seconds, and how many came free (negative: were taken), in order.
SELECT extract(EPOCH FROM c.at)::float8 AS at_s, c.delta
FROM (
    SELECT e.at, CASE WHEN e.version = 1 THEN -o.quantity ELSE o.quantity END AS delta
    FROM order_events AS e
    INNER JOIN orders AS o ON e.order_id = o.order_id
    WHERE o.product_id = $1 AND (
        e.version = 1 OR e.status IN ('payment_failed', 'expired', 'cancelled', 'failed')
        OR (e.status = 'refunded' AND o.restocked)
    )
    UNION ALL
    SELECT t.valid_from, t.allotment - lag(t.allotment) OVER (ORDER BY t.valid_from)
    FROM product_terms AS t
    WHERE t.product_id = $1
) AS c
WHERE c.delta <> 0 AND c.at IS NOT NULL
ORDER BY c.at;

-- name: sales
-- Reads every product, and whether it is on sale now.
SELECT
    p.product_id,
    coalesce(NOT p.paused, true) AND coalesce(p.starts_at <= clock_timestamp(), true)
    AND coalesce(p.ends_at > clock_timestamp(), true) AS on_sale
FROM products AS p
ORDER BY p.product_id;

-- name: owed_returns
-- Sums up the units of a product whose return the gate has not been told of, and how long, in seconds, the oldest has
-- waited. Those of orders that are not there count as waiting for ever.
SELECT
    coalesce(sum(r.quantity), 0)::integer AS units,
    coalesce(
        max(coalesce(extract(EPOCH FROM clock_timestamp() - o.updated_at), 'infinity')), 0
    )::float8 AS waited_s
FROM gate_returns AS r
LEFT JOIN orders AS o ON r.order_id = o.order_id
WHERE r.product_id = $1;

-- name: outcome_of_sale
-- Sums a product's sale up: orders by outcome, free units, and seconds from acceptance to the final state.
WITH final AS (
    SELECT o.order_id, extract(EPOCH FROM o.updated_at - o.created_at)::float8 AS took_s
    FROM orders AS o
    WHERE o.product_id = $1 AND o.due_at IS NULL
)
SELECT
    count(*) AS accepted,
    coalesce(sum(o.quantity) FILTER (WHERE o.status = 'confirmed'), 0)::integer AS confirmed,
    count(*) FILTER (WHERE o.status = 'payment_failed') AS declined,
    (SELECT count(*) FROM units AS u WHERE u.product_id = $1 AND u.order_id IS NULL)
    + (SELECT u.unmade FROM unit_pools AS u WHERE u.product_id = $1) AS free,
    (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY f.took_s) FROM final AS f) AS final_p50_s,
    (SELECT percentile_disc(0.95) WITHIN GROUP (ORDER BY f.took_s) FROM final AS f) AS final_p95_s,
    (SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY f.took_s) FROM final AS f) AS final_p99_s
FROM orders AS o
WHERE o.product_id = $1;
