-- Replacements of the `_whole` statements of invariants.sql for the minute audit: `orders` has the orders that the totals do
-- not count. Each statement returns a row per checked object, as there.

-- name: I1_held
-- Per product: free units and units of orders add up to the allotment. Refunded orders that released their units are
-- subtracted, because the totals do not tell them from the others.
WITH held AS (
    SELECT h.product_id, sum(h.units) AS units
    FROM (
        SELECT t.product_id, t.status, t.units FROM order_totals AS t
        UNION ALL
        SELECT o.product_id, o.status, o.quantity FROM orders AS o
        UNION ALL
        SELECT o.product_id, s.counted, -o.quantity
        FROM order_stragglers AS s
        INNER JOIN orders AS o ON s.order_id = o.order_id
        WHERE s.counted IS NOT NULL
        UNION ALL
        SELECT o.product_id, 'refunded', -o.quantity FROM all_restocked AS o
    ) AS h
    WHERE h.status NOT IN ('payment_failed', 'expired', 'cancelled', 'failed')
    GROUP BY h.product_id
)
SELECT
    p.product_id::text AS id,
    (p.allotment = l.free + coalesce(h.units, 0)) IS NOT TRUE AS bad
FROM products AS p
LEFT JOIN product_live AS l ON p.product_id = l.product_id
LEFT JOIN held AS h ON p.product_id = h.product_id;

-- name: I1_free
-- Per product, a part of the products each minute: the live count equals the free units, as far as 100,000 rows show.
-- A round over all products takes one minute per 200,000 free rows.
WITH sized AS (
    SELECT
        p.product_id, least(l.free - coalesce(u.unmade, 0), 100000) AS units,
        row_number() OVER (ORDER BY p.product_id) AS place,
        ceil(sum(least(l.free - coalesce(u.unmade, 0), 100000) + 100) OVER () / 200000.0)::bigint AS minutes
    FROM products AS p
    INNER JOIN product_live AS l ON p.product_id = l.product_id
    LEFT JOIN unit_pools AS u ON p.product_id = u.product_id
)
SELECT
    s.product_id::text AS id,
    s.units <> (
        SELECT count(*)
        FROM (
            SELECT 1 FROM all_units AS f WHERE f.product_id = s.product_id AND f.order_id IS NULL LIMIT 100000
        ) AS free
    ) AS bad
FROM sized AS s
WHERE s.place % s.minutes = floor(extract(EPOCH FROM now()) / 60)::bigint % s.minutes;

-- name: I8_buyers
-- The count of each buyer of these orders is at least the units that these orders hold, and equal if the product has
-- no other orders.
WITH held AS (
    SELECT
        o.product_id, o.user_id,
        coalesce(sum(o.quantity) FILTER (
            WHERE o.status NOT IN ('payment_failed', 'expired', 'cancelled', 'failed') AND NOT o.restocked
        ), 0) AS units
    FROM orders AS o
    GROUP BY o.product_id, o.user_id
)
SELECT
    h.user_id::text AS id,
    (
        b.units >= h.units
        AND (b.units = h.units OR EXISTS (SELECT 1 FROM order_totals AS t WHERE t.product_id = h.product_id))
    ) IS NOT TRUE AS bad
FROM held AS h
LEFT JOIN buyer_units AS b ON h.product_id = b.product_id AND h.user_id = b.user_id;

-- name: I15_waiting
-- Each webhook that was not taken waits for a job in the near future, and not for longer than the bound.
SELECT
    e.event_id AS id,
    (
        e.received_at > clock_timestamp() - $2::float8 * interval '1 second'
        AND e.due_at BETWEEN clock_timestamp() - $1::float8 * interval '1 second'
        AND clock_timestamp() + $2::float8 * interval '1 second'
        AND e.taken_at IS NULL
    ) IS NOT TRUE AS bad
FROM webhook_events AS e
WHERE e.taken_at IS NULL OR e.due_at IS NOT NULL;
