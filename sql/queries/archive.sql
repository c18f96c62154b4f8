-- name: read_as_utc
-- Lets this transaction write instants, intervals and bytes as text in one way, whatever the server's settings are.
SELECT
    set_config('TimeZone', 'UTC', true), set_config('IntervalStyle', 'postgres', true),
    set_config('bytea_output', 'hex', true), set_config('extra_float_digits', '1', true);

-- name: sale
-- Reads a product with the instant at which anything of its sale changed last, its final orders in the tables, and what is
-- known of its archive.
SELECT
    p.name, p.archived_at, a.place, a.digests, a.begun_at, a.ended_at, coalesce(a.orders, 0) AS archived,
    (SELECT count(*) FROM orders AS o WHERE o.product_id = p.product_id AND o.due_at IS NULL) AS orders,
    greatest(
        p.archived_at,
        (SELECT max(o.updated_at) FROM orders AS o WHERE o.product_id = p.product_id AND o.due_at IS NULL),
        (
            SELECT max(greatest(r.finished_at, r.bounced_at))
            FROM refunds AS r
            INNER JOIN orders AS o ON r.order_id = o.order_id
            WHERE o.product_id = p.product_id AND o.due_at IS NULL
        ),
        (
            SELECT max(i.updated_at)
            FROM payment_intents AS i
            INNER JOIN orders AS o ON i.order_id = o.order_id
            WHERE o.product_id = p.product_id AND o.due_at IS NULL
        )
    ) AS moved_at,
    clock_timestamp() AS now
FROM products AS p
LEFT JOIN sale_archives AS a ON p.product_id = a.product_id
WHERE p.product_id = $1;

-- name: open_matters
-- Counts what keeps a sale from being archived, by kind; nothing of it may be open. $2: whether disputes are over.
SELECT m.what, m.number
FROM (
    SELECT 'orders that are not final' AS what, count(*) AS number
    FROM orders AS o
    WHERE o.due_at IS NOT NULL AND o.product_id = $1
    UNION ALL
    SELECT 'orders whose charge is disputed', count(*)
    FROM orders AS o
    WHERE o.disputed AND NOT $2::boolean AND o.due_at IS NULL AND o.product_id = $1
    UNION ALL
    SELECT 'pending refunds', count(*)
    FROM refunds AS r
    INNER JOIN orders AS o ON r.order_id = o.order_id
    WHERE r.due_at IS NOT NULL AND o.product_id = $1
    UNION ALL
    SELECT 'payments that are not settled at the provider', count(*)
    FROM payment_intents AS i
    WHERE
        i.due_at IS NOT NULL
        AND EXISTS (SELECT 1 FROM orders AS o WHERE o.order_id = i.order_id AND o.product_id = $1)
    UNION ALL
    SELECT 'webhooks of the provider that are not handled', count(*)
    FROM webhook_events AS w
    INNER JOIN payment_intents AS i ON w.provider = i.provider AND w.reference = i.reference
    WHERE
        w.due_at IS NOT NULL
        AND EXISTS (SELECT 1 FROM orders AS o WHERE o.order_id = i.order_id AND o.product_id = $1)
    UNION ALL
    SELECT 'messages to buyers or endpoints that wait', count(*)
    FROM outbox AS m
    WHERE m.due_at IS NOT NULL AND m.product_id = $1
    UNION ALL
    SELECT 'orders that the totals do not count yet: wait a quarter of an hour', count(*)
    FROM orders AS o
    WHERE
        o.product_id = $1 AND o.due_at IS NULL
        AND (
            o.order_id > (SELECT k.order_id FROM order_mark AS k)
            OR EXISTS (SELECT 1 FROM order_stragglers AS s WHERE s.order_id = o.order_id)
        )
) AS m
WHERE m.number > 0;

-- name: due_sales
-- Reads the archived products whose rows are in the tables still, the oldest first.
SELECT p.product_id
FROM products AS p
LEFT JOIN sale_archives AS a ON p.product_id = a.product_id
WHERE p.archived_at IS NOT NULL AND a.ended_at IS NULL
ORDER BY p.product_id;

-- name: next_orders
-- Reads the ids of up to $3 final orders of a product after order $2, in order: of each state the next ones, by an index.
SELECT n.order_id
FROM unnest(ARRAY['confirmed', 'payment_failed', 'expired', 'cancelled', 'failed', 'refunded']) AS s (status)
CROSS JOIN LATERAL (
    SELECT o.order_id
    FROM orders AS o
    WHERE o.due_at IS NULL AND o.product_id = $1 AND o.status = s.status AND o.order_id > $2
    ORDER BY o.order_id
    LIMIT $3
) AS n
ORDER BY n.order_id
LIMIT $3;

-- name: documents
-- Reads all rows of each of some orders as one JSON document, in the order of their ids. What a browser needed to pay is left
-- out.
SELECT
    jsonb_build_object(
        'order', to_jsonb(o),
        'request', (SELECT to_jsonb(q) FROM requests AS q WHERE q.order_id = o.order_id),
        'units', ARRAY(SELECT u.unit_no FROM units AS u WHERE u.order_id = o.order_id ORDER BY u.unit_no),
        'events', (
            SELECT coalesce(jsonb_agg(to_jsonb(e) - 'order_id' ORDER BY e.version), '[]')
            FROM order_events AS e WHERE e.order_id = o.order_id
        ),
        'attempts', (
            SELECT coalesce(jsonb_agg(to_jsonb(t) - 'order_id' ORDER BY t.attempt), '[]')
            FROM payment_attempts AS t WHERE t.order_id = o.order_id
        ),
        'intents', (
            SELECT coalesce(
                jsonb_agg(to_jsonb(i) - '{order_id,client_secret,page_url}'::text [] ORDER BY i.number), '[]'
            )
            FROM payment_intents AS i WHERE i.order_id = o.order_id
        ),
        'refunds', (
            SELECT coalesce(jsonb_agg(to_jsonb(r) - 'order_id' ORDER BY r.number), '[]')
            FROM refunds AS r WHERE r.order_id = o.order_id
        ),
        'records', (
            SELECT coalesce(jsonb_agg(to_jsonb(m) - 'order_id' ORDER BY m.number), '[]')
            FROM manual_entries AS m WHERE m.order_id = o.order_id
        ),
        'fee', (SELECT to_jsonb(f) - 'order_id' FROM payment_fees AS f WHERE f.order_id = o.order_id)
    )::text AS document
FROM orders AS o
WHERE o.order_id = ANY($1::uuid [])
ORDER BY o.order_id;

-- name: messages
-- Reads what others were told of some orders, and webhooks of the provider about them, as JSON. Why a delivery failed is
-- left out: it may name a person.
SELECT x.document
FROM (
    SELECT
        m.order_id, 1 AS kind, m.message_id::text AS id,
        jsonb_build_object('message', to_jsonb(m) - 'problem')::text AS document
    FROM outbox AS m
    WHERE m.order_id = ANY($1::uuid [])
    UNION ALL
    SELECT w.order_id, 2, w.event_id, jsonb_build_object('webhook', to_jsonb(w))::text
    FROM webhook_events AS w
    WHERE w.order_id = ANY($1::uuid [])
) AS x
ORDER BY x.order_id, x.kind, x.id;

-- name: product
-- Reads a product with its terms, its units, its rows in the trail without names of persons, and the messages about it, as
-- one JSON document.
SELECT
    jsonb_build_object(
        'product', to_jsonb(p),
        'terms', (
            SELECT jsonb_agg(to_jsonb(t) - 'product_id' ORDER BY t.valid_from)
            FROM product_terms AS t WHERE t.product_id = $1
        ),
        'live', (SELECT to_jsonb(l) - 'product_id' FROM product_live AS l WHERE l.product_id = $1),
        'restocked', (SELECT r.units FROM product_restocks AS r WHERE r.product_id = $1),
        'messages', (
            SELECT coalesce(jsonb_agg(to_jsonb(m) - 'problem' ORDER BY m.message_id), '[]')
            FROM outbox AS m WHERE m.product_id = $1 AND m.order_id IS NULL
        ),
        'trail', (
            SELECT coalesce(jsonb_agg(to_jsonb(a) - '{actor,origin}'::text [] ORDER BY a.trail_id), '[]')
            FROM admin_trail AS a WHERE a.object = 'product/' || $1
        )
    )::text AS document
FROM products AS p
WHERE p.product_id = $1;

-- name: sums
-- Sums the final orders of a product by state and currency, with what of their prices is back: those in the tables and those that
-- are in files only.
SELECT
    o.status, o.currency, count(*) AS orders, sum(o.quantity)::bigint AS units,
    sum(o.quantity * o.unit_price_minor)::bigint AS value_minor, sum(o.refunded_minor)::bigint AS refunded_minor
FROM (
    SELECT l.status, l.currency, l.quantity, l.unit_price_minor, l.refunded_minor
    FROM orders AS l WHERE l.product_id = $1 AND l.due_at IS NULL
    UNION ALL
    SELECT a.status, a.currency, a.quantity, a.unit_price_minor, a.refunded_minor
    FROM archived_orders AS a WHERE a.product_id = $1
) AS o
GROUP BY o.status, o.currency
ORDER BY o.status, o.currency;

-- name: begin
-- Notes where the files of a sale are, before rows leave the tables.
INSERT INTO sale_archives (product_id, place, orders) VALUES ($1, $2, $3)
ON CONFLICT (product_id) DO UPDATE SET place = excluded.place, orders = excluded.orders
WHERE sale_archives.ended_at IS NULL
RETURNING product_id;

-- name: claim
-- Notes that part number $2 of a sale's files, with digest $3, is the next whose rows leave; nothing if it is not the next.
UPDATE sale_archives
SET digests = digests || $3::bytea
WHERE product_id = $1 AND cardinality(digests) = $2 AND ended_at IS NULL
RETURNING product_id;

-- name: unsettled
-- Counts the orders of which something is open, or that the totals count as something else. $2: whether disputes are over.
SELECT count(*) AS orders
FROM orders AS o
WHERE
    o.order_id = ANY($1::uuid [])
    AND (
        o.due_at IS NOT NULL OR (o.disputed AND NOT $2::boolean) OR o.order_id > (SELECT k.order_id FROM order_mark AS k)
        OR EXISTS (SELECT 1 FROM order_stragglers AS s WHERE s.order_id = o.order_id)
        OR EXISTS (SELECT 1 FROM refunds AS r WHERE r.order_id = o.order_id AND r.due_at IS NOT NULL)
        OR EXISTS (SELECT 1 FROM payment_intents AS i WHERE i.order_id = o.order_id AND i.due_at IS NOT NULL)
        OR EXISTS (SELECT 1 FROM outbox AS m WHERE m.order_id = o.order_id AND m.due_at IS NOT NULL)
    );

-- name: keep_orders
-- Writes what stays of orders.
INSERT INTO archived_orders (
    order_id, user_id, product_id, product_name, quantity, unit_price_minor, currency, status, version, changes,
    refunded_minor, restocked, created_at, updated_at
)
SELECT
    o.order_id, o.user_id, o.product_id, o.product_name, o.quantity, o.unit_price_minor, o.currency, o.status,
    o.version, o.changes, o.refunded_minor, o.restocked, o.created_at, o.updated_at
FROM orders AS o
WHERE o.order_id = ANY($1::uuid []);

-- name: keep_money
-- Adds the money of orders to the sums that stay.
INSERT INTO archived_money AS k (
    product_id, currency, at, payments, revenue_minor, refunds, refunded_minor, fees, fees_minor
)
SELECT
    o.product_id, o.currency, date_bin('15 minutes', m.at, '2000-01-01 00:00:00+00'::timestamptz), sum(m.payments),
    sum(m.revenue_minor), sum(m.refunds), sum(m.refunded_minor), count(f.fee_minor), coalesce(sum(f.fee_minor), 0)
FROM (
    SELECT
        a.order_id, a.finished_at AS at, 1 AS payments, a.amount_minor AS revenue_minor, 0 AS refunds,
        0 AS refunded_minor
    FROM payment_attempts AS a
    WHERE a.outcome = 'captured' AND a.order_id = ANY($1::uuid [])
    UNION ALL
    SELECT r.order_id, r.finished_at, 0, 0, 1, r.amount_minor
    FROM refunds AS r
    WHERE r.state = 'succeeded' AND r.order_id = ANY($1::uuid [])
) AS m
INNER JOIN orders AS o ON m.order_id = o.order_id
LEFT JOIN payment_fees AS f ON m.order_id = f.order_id AND o.currency = f.currency AND m.payments = 1
GROUP BY o.product_id, o.currency, date_bin('15 minutes', m.at, '2000-01-01 00:00:00+00'::timestamptz)
ON CONFLICT (product_id, currency, at) DO UPDATE
SET
    payments = k.payments + excluded.payments, revenue_minor = k.revenue_minor + excluded.revenue_minor,
    refunds = k.refunds + excluded.refunds, refunded_minor = k.refunded_minor + excluded.refunded_minor,
    fees = k.fees + excluded.fees, fees_minor = k.fees_minor + excluded.fees_minor;

-- name: remove_orders
-- Deletes orders with all of their rows. Gives each of their buyers with the units that these orders held.
WITH gone_units AS (DELETE FROM units WHERE order_id = ANY($1::uuid [])),
gone_events AS (DELETE FROM order_events WHERE order_id = ANY($1::uuid [])),
gone_attempts AS (DELETE FROM payment_attempts WHERE order_id = ANY($1::uuid [])),
gone_intents AS (DELETE FROM payment_intents WHERE order_id = ANY($1::uuid [])),
gone_refunds AS (DELETE FROM refunds WHERE order_id = ANY($1::uuid [])),
gone_records AS (DELETE FROM manual_entries WHERE order_id = ANY($1::uuid [])),
gone_fees AS (DELETE FROM payment_fees WHERE order_id = ANY($1::uuid [])),
gone_returns AS (DELETE FROM gate_returns WHERE order_id = ANY($1::uuid [])),
gone_postponed AS (DELETE FROM postponed_orders WHERE order_id = ANY($1::uuid [])),
gone_messages AS (DELETE FROM outbox WHERE order_id = ANY($1::uuid [])),
gone_webhooks AS (DELETE FROM webhook_events WHERE order_id = ANY($1::uuid [])),
gone_requests AS (DELETE FROM requests WHERE order_id = ANY($1::uuid [])),
gone AS (DELETE FROM orders WHERE order_id = ANY($1::uuid []) RETURNING user_id, quantity, status, restocked)
SELECT
    g.user_id,
    coalesce(sum(g.quantity) FILTER (
        WHERE g.status NOT IN ('payment_failed', 'expired', 'cancelled', 'failed') AND NOT g.restocked
    ), 0)::integer AS held
FROM gone AS g
GROUP BY g.user_id;

-- name: forget_buyers
-- Deletes the counts of buyers ($2) who have no order of the product left.
DELETE FROM buyer_units AS b
WHERE
    b.product_id = $1 AND b.user_id = ANY($2::uuid [])
    AND NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.product_id = $1 AND o.user_id = b.user_id);

-- name: count_less
-- Subtracts the units ($3) that orders held from the counts of their buyers ($2).
UPDATE buyer_units AS b
SET units = b.units - h.held
FROM unnest($2::uuid [], $3::integer []) AS h (user_id, held)
WHERE b.product_id = $1 AND b.user_id = h.user_id AND h.held > 0;

-- name: forget_rest
-- Deletes up to $2 counts of buyers of a product that hold nothing, and up to $2 messages about it. Gives how many rows.
WITH gone_counts AS (
    DELETE FROM buyer_units
    WHERE
        product_id = $1 AND user_id IN (
            SELECT b.user_id FROM buyer_units AS b
            WHERE
                b.product_id = $1 AND b.units = 0
                AND NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.product_id = $1 AND o.user_id = b.user_id)
            LIMIT $2
        )
    RETURNING 1
),
gone_messages AS (
    DELETE FROM outbox
    WHERE message_id IN (
        SELECT m.message_id FROM outbox AS m
        WHERE m.product_id = $1 AND m.order_id IS NULL AND m.due_at IS NULL
        LIMIT $2
    )
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone_counts) + (SELECT count(*) FROM gone_messages) AS rows;

-- name: forget_free_units
-- Deletes up to $2 rows of units that no order holds: they count as units that have no row. Gives how many.
WITH gone AS (
    DELETE FROM units
    WHERE
        product_id = $1
        AND unit_no IN (SELECT u.unit_no FROM units AS u WHERE u.product_id = $1 AND u.order_id IS NULL LIMIT $2)
    RETURNING unit_no
),
counted AS (
    INSERT INTO unit_pools AS o (product_id, unmade)
    SELECT $1, count(*) FROM gone HAVING count(*) > 0
    ON CONFLICT (product_id) DO UPDATE SET unmade = o.unmade + excluded.unmade
)
SELECT count(*) AS rows FROM gone;

-- name: end
-- Notes that the last row of a sale is gone.
UPDATE sale_archives SET ended_at = clock_timestamp()
WHERE
    product_id = $1 AND ended_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.product_id = $1 AND o.due_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.product_id = $1 AND o.due_at IS NOT NULL)
RETURNING product_id;
