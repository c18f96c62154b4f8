-- name: outcomes
-- Reads every order for a comparison with what clients saw.
SELECT
    order_id::text AS order_id, user_id::text AS user_id, status, version, product_id,
    unit_price_minor * quantity AS price_minor,
    coalesce(extract(EPOCH FROM clock_timestamp() - due_at), 0)::float8 AS overdue_s
FROM orders;

-- name: unit_changes
-- Reads when units of a product were claimed and released: the instant, in Unix seconds, and how many (negative:
-- claimed), in order.
SELECT extract(EPOCH FROM e.at)::float8 AS at_s,
    CASE WHEN e.version = 1 THEN -o.quantity ELSE o.quantity END AS delta
FROM order_events AS e
INNER JOIN orders AS o ON e.order_id = o.order_id
WHERE o.product_id = $1 AND (
    e.version = 1 OR e.status IN ('payment_failed', 'expired', 'cancelled', 'failed')
)
ORDER BY e.at;

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
