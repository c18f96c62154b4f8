-- The invariants that the database alone can show. Each statement gives a row for everything that it checks: its id, and
-- whether it violates the invariant (`bad`).

-- name: I1_units
-- Per product: free and claimed units are the allotment, and the live count is the number of free units. Units without
-- a row are free (unmade < 0: as many free rows are no units); each row is of a product.
WITH counted AS (
    SELECT u.product_id, count(*) AS units, count(*) FILTER (WHERE u.order_id IS NULL) AS free
    FROM units AS u
    GROUP BY u.product_id
)
SELECT
    coalesce(p.product_id, c.product_id)::text AS id,
    (
        p.product_id IS NULL
        OR coalesce(c.units, 0) + coalesce(o.unmade, 0) <> p.allotment
        OR l.free IS DISTINCT FROM (coalesce(c.free, 0) + coalesce(o.unmade, 0))
    ) AS bad
FROM products AS p
FULL JOIN counted AS c ON p.product_id = c.product_id
LEFT JOIN product_live AS l ON p.product_id = l.product_id
LEFT JOIN unit_pools AS o ON p.product_id = o.product_id;

-- name: I2_owners
-- Each order that is live, confirmed or being refunded owns exactly its quantity of its product's units; every other
-- order that was not refunded owns none.
WITH owned AS (
    SELECT u.order_id, u.product_id, count(*) AS units FROM units AS u
    WHERE u.order_id IS NOT NULL GROUP BY u.order_id, u.product_id
)
SELECT
    o.order_id::text AS id,
    coalesce(w.units, 0) <> CASE
        WHEN o.status IN ('payment_failed', 'expired', 'cancelled', 'failed') THEN 0 ELSE o.quantity
    END
    OR (w.units IS NOT NULL AND w.product_id <> o.product_id) AS bad
FROM orders AS o
LEFT JOIN owned AS w ON o.order_id = w.order_id;

-- name: I5_histories
-- Each order's events are gapless from version 1 `queued`, follow the transition table, and end where the order is; each
-- event is an order's.
WITH steps AS (
    SELECT
        e.order_id, e.version, e.status,
        lag(e.version) OVER w AS version_before, lag(e.status) OVER w AS status_before,
        lead(e.version) OVER w AS version_after
    FROM order_events AS e
    WINDOW w AS (PARTITION BY e.order_id ORDER BY e.version)
),
broken AS (
    SELECT DISTINCT s.order_id FROM steps AS s
    WHERE (s.version_before IS NULL AND (s.version <> 1 OR s.status <> 'queued'))
        OR (s.version_before IS NOT NULL AND (
            s.version <> s.version_before + 1 OR NOT order_transition_allowed_v1(s.status_before, s.status)
        ))
)
SELECT
    o.order_id::text AS id,
    (b.order_id IS NOT NULL OR last.order_id IS NULL) AS bad
FROM orders AS o
LEFT JOIN broken AS b ON o.order_id = b.order_id
LEFT JOIN steps AS last
    ON o.order_id = last.order_id AND last.version_after IS NULL
    AND o.version = last.version AND o.status = last.status
UNION ALL
SELECT e.order_id::text, true
FROM order_events AS e
WHERE NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.order_id = e.order_id);

-- name: I7_attempts
-- A confirmed order has a captured attempt over exactly its price; an order that ended unconfirmed has none; no order
-- has two captured attempts, and none that is final has an open one.
WITH tried AS (
    SELECT
        a.order_id,
        count(*) FILTER (WHERE a.outcome = 'captured') AS captured,
        count(*) FILTER (WHERE a.outcome IS NULL) AS open,
        bool_or(a.outcome = 'captured' AND (a.amount_minor, a.currency) <> (o.unit_price_minor * o.quantity, o.currency))
            AS wrong_amount
    FROM payment_attempts AS a
    INNER JOIN orders AS o ON a.order_id = o.order_id
    GROUP BY a.order_id
)
SELECT
    o.order_id::text AS id,
    coalesce(t.captured, 0) <> CASE WHEN o.status IN ('confirmed', 'refund_pending', 'refunded') THEN 1 ELSE 0 END
    OR coalesce(t.wrong_amount, false)
    OR (o.due_at IS NULL AND coalesce(t.open, 0) > 0) AS bad
FROM orders AS o
LEFT JOIN tried AS t ON o.order_id = t.order_id;

-- name: I8_releases
-- Per buyer and product: the count is the sum of the quantities of orders that hold units, so each ended order gave its
-- units back exactly once; returns to the gate belong to orders that ended unconfirmed.
WITH held AS (
    SELECT o.product_id, o.user_id, sum(o.quantity) AS units
    FROM orders AS o
    WHERE o.status NOT IN ('payment_failed', 'expired', 'cancelled', 'failed')
    GROUP BY o.product_id, o.user_id
)
SELECT
    coalesce(b.user_id, h.user_id)::text AS id, coalesce(b.units, 0) <> coalesce(h.units, 0) AS bad
FROM buyer_units AS b
FULL JOIN held AS h ON b.product_id = h.product_id AND b.user_id = h.user_id
UNION ALL
SELECT
    r.order_id::text,
    o.status NOT IN ('payment_failed', 'expired', 'cancelled', 'failed') OR r.quantity <> o.quantity
FROM gate_returns AS r
INNER JOIN orders AS o ON r.order_id = o.order_id;

-- name: I9_requests
-- Each order has its request of kind `order`, of the same user; each such request has its order; a user's key has one.
SELECT
    coalesce(o.order_id, r.order_id)::text AS id,
    (o.order_id IS NULL OR r.order_id IS NULL OR r.user_id <> o.user_id) AS bad
FROM orders AS o
FULL JOIN (SELECT q.order_id, q.user_id FROM requests AS q WHERE q.kind = 'order') AS r ON o.order_id = r.order_id
UNION ALL
SELECT d.key, true
FROM requests AS d
WHERE d.kind = 'order' AND d.key IS NOT NULL
GROUP BY d.user_id, d.key
HAVING count(*) > 1;

-- name: I10_limits
-- No buyer holds more units than the product's limit allows. A limit that was lowered later shows here for buyers who
-- had more before.
SELECT b.user_id::text AS id, b.units > p.limit_per_buyer AS bad
FROM buyer_units AS b
INNER JOIN products AS p ON b.product_id = p.product_id
WHERE p.limit_per_buyer IS NOT NULL;

-- name: I11_window
-- No order was accepted outside its product's sale window as it is now.
SELECT
    o.order_id::text AS id,
    (coalesce(o.created_at < p.starts_at, false) OR coalesce(o.created_at >= p.ends_at + interval '1 second', false))
        AS bad
FROM orders AS o
INNER JOIN products AS p ON o.product_id = p.product_id;

-- name: I12_wakeups
-- Each order that is not final is due some time, and none is overdue by more than the bound.
SELECT
    o.order_id::text AS id,
    (o.due_at IS NULL OR o.due_at < clock_timestamp() - $1::float8 * interval '1 second') AS bad
FROM orders AS o
WHERE o.status NOT IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'failed', 'refunded');

-- name: I16_ids
-- Order ids are UUIDs of version 7.
SELECT o.order_id::text AS id, substr(o.order_id::text, 15, 1) <> '7' AS bad FROM orders AS o;
