-- Replacements of the `_whole` statements of invariants.sql for the minute audit: `orders` has the orders that the totals do
-- not count. Each statement returns a row per checked object, as there.

-- name: I1_held
-- Per product: free units and units of orders add up to the allotment. Of the refunded orders, those that released their
-- units are subtracted.
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
        SELECT r.product_id, 'refunded', -r.units FROM product_restocks AS r
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
-- Per product, the live count equals the free units, as far as `most` rows show. Products that were changed, or have orders
-- that were, in the last quarter of an hour: 100,000 rows each, and 200,000 in a minute. The others, which only a fault could
-- change, take turns: 1,000 rows each, and 2,000 in a minute, so that what is left of old sales costs little.
WITH recent AS (
    SELECT o.product_id FROM orders AS o
    UNION
    SELECT p.product_id FROM products AS p WHERE p.updated_at > now() - interval '15 minutes'
),
looked_at AS (
    SELECT
        p.product_id, l.free - coalesce(u.unmade, 0) AS free, r.product_id IS NOT NULL AS is_recent,
        CASE WHEN r.product_id IS NULL THEN 1000 ELSE 100000 END AS most
    FROM products AS p
    INNER JOIN product_live AS l ON p.product_id = l.product_id
    LEFT JOIN unit_pools AS u ON p.product_id = u.product_id
    LEFT JOIN recent AS r ON p.product_id = r.product_id
),
sized AS (
    SELECT
        k.product_id, k.most, least(k.free, k.most) AS units,
        row_number() OVER (PARTITION BY k.is_recent ORDER BY k.product_id) AS place,
        ceil(sum(least(k.free, k.most) + k.most / 1000) OVER (PARTITION BY k.is_recent) / (2.0 * k.most))::bigint AS minutes
    FROM looked_at AS k
)
SELECT
    s.product_id::text AS id,
    s.units <> (
        SELECT count(*)
        FROM (
            SELECT 1 FROM all_units AS f WHERE f.product_id = s.product_id AND f.order_id IS NULL LIMIT s.most
        ) AS free
    ) AS bad
FROM sized AS s
WHERE s.place % greatest(s.minutes, 1) = floor(extract(EPOCH FROM now()) / 60)::bigint % greatest(s.minutes, 1);

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

-- name: I23_references
-- A row that another row refers to exists and is older. Each account is looked up: a join would read every account.
SELECT o.order_id::text AS id, (u.created_at <= o.created_at) IS NOT TRUE AS bad
FROM orders AS o
LEFT JOIN LATERAL (SELECT a.created_at FROM users AS a WHERE a.user_id = o.user_id OFFSET 0) AS u ON true
UNION ALL
SELECT
    b.user_id::text,
    (
        CASE p.limit_per
            WHEN 'account' THEN u.user_id IS NOT NULL AND b.limit_id IS NULL
            WHEN 'email_root' THEN b.limit_id = limit_id_v1(u.email_key, u.email)
        END
    ) IS NOT TRUE
FROM buyer_units AS b
LEFT JOIN LATERAL (
    SELECT a.user_id, a.email, a.email_key FROM users AS a WHERE a.user_id = b.user_id OFFSET 0
) AS u ON true
LEFT JOIN products AS p ON b.product_id = p.product_id;

-- name: I26_product_messages
-- Each message about a product is about one that there is, says so, and a message that waits is due within two days.
SELECT
    m.message_id::text AS id,
    (
        p.product_id IS NOT NULL AND m.order_version IS NULL AND m.event = 'stock.sold_out'
        AND m.back_minor = 0 AND m.failed = '' AND m.facts ->> 'product_id' = m.product_id::text
        AND m.created_at <= clock_timestamp() AND m.attempts >= 0
        AND (m.due_at IS NULL) = (m.outcome IS NOT NULL) AND (m.due_at IS NULL) = (m.ended_at IS NOT NULL)
        AND (m.outcome IS NULL OR m.outcome IN ('delivered', 'dead'))
        AND coalesce(m.due_at, m.created_at) < clock_timestamp() + interval '2 days'
        AND coalesce(m.ended_at, m.created_at) BETWEEN m.created_at AND clock_timestamp()
        AND coalesce(m.resent_at, m.created_at) BETWEEN m.created_at AND clock_timestamp()
    ) IS NOT TRUE AS bad
FROM product_messages AS m
LEFT JOIN products AS p ON m.product_id = p.product_id;

-- name: I26_sold_out
-- Each product that sold out in the last day, as its orders and the instant at which units came free again show, has its
-- message to each target that wants to be told, unless the target was told of another one in that time. What is asked for:
-- one that had not ended when the last unit was taken.
WITH sold AS (
    SELECT
        o.product_id, max(o.created_at) AS at, CASE WHEN l.free > 0 THEN l.above_zero_at ELSE 'infinity' END AS until
    FROM orders AS o
    INNER JOIN product_live AS l ON o.product_id = l.product_id
    WHERE o.order_id > first_order_id_v1(statement_timestamp() - interval '1 day')
        AND (l.free = 0 OR o.created_at < l.above_zero_at)
    GROUP BY o.product_id, l.free, l.above_zero_at
)
SELECT
    s.product_id || ' ' || t.target_id AS id,
    NOT EXISTS (
        SELECT 1
        FROM product_messages AS m
        WHERE m.product_id = s.product_id AND m.target_id = t.target_id AND m.order_id IS NULL
            AND m.created_at < s.until AND coalesce(m.ended_at, 'infinity') >= s.at
    ) AS bad
FROM sold AS s
INNER JOIN outbox_targets AS t ON 'stock.sold_out' = ANY(t.events)
WHERE s.at > t.wanted_since + interval '10 seconds';
