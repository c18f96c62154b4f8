-- The invariants that the database alone can show. Each statement returns a row per checked object: its id, and whether it
-- violates the invariant (`bad`). An invariant is one condition; a condition that is not true (also NULL) is bad.
--
-- $1: seconds that an order may be overdue; $2: seconds that it may stay in a state that is not final. Statements whose
-- names end in `_whole` read all rows of a table; the others are right for any set of orders with all of their rows.

-- name: I1_units_whole
-- Per product: free and claimed units add up to the allotment, and the live count equals the free units. Units without
-- a row count as free (a negative `unmade` is a surplus of free rows); each row belongs to a product. The units that
-- archived orders hold have no rows.
WITH counted AS (
    SELECT
        u.product_id, count(u.unit_no) AS units, count(*) FILTER (WHERE u.order_id IS NULL) AS free,
        bool_and(u.unit_no > 0) AS numbered
    FROM units AS u
    GROUP BY u.product_id
),
archived AS (
    SELECT a.product_id, sum(a.quantity) AS units
    FROM archived_orders AS a
    WHERE a.status IN ('confirmed', 'refunded') AND NOT a.restocked
    GROUP BY a.product_id
)
SELECT
    coalesce(p.product_id, l.product_id, c.product_id, o.product_id, s.product_id, h.product_id)::text AS id,
    (
        p.allotment = coalesce(c.units, 0) + coalesce(o.unmade, 0) + coalesce(h.units, 0)
        AND l.free = coalesce(c.free, 0) + coalesce(o.unmade, 0)
        AND l.version > 0 AND l.claim_hand >= 0 AND coalesce(c.numbered, true)
        AND l.above_zero_at <= l.raised_at AND l.raised_at <= clock_timestamp()
        AND (s.product_id IS NULL OR (SELECT max(r) FROM unnest(s.raised_at) AS r) <= clock_timestamp())
        AND (o.product_id IS NULL) = (o.unmade IS NULL)
    ) IS NOT TRUE AS bad
FROM products AS p
FULL JOIN product_live AS l ON p.product_id = l.product_id
FULL JOIN counted AS c ON coalesce(p.product_id, l.product_id) = c.product_id
FULL JOIN unit_pools AS o ON coalesce(p.product_id, l.product_id, c.product_id) = o.product_id
FULL JOIN stock_raises AS s ON coalesce(p.product_id, l.product_id, c.product_id, o.product_id) = s.product_id
FULL JOIN archived AS h ON coalesce(p.product_id, l.product_id, c.product_id, o.product_id, s.product_id) = h.product_id;

-- name: I2_owners
-- Each order that is live, confirmed or refunded owns exactly its quantity of units of its product, unless its refund
-- released them. No other order owns a unit, and each owned unit belongs to an order.
WITH owned AS (
    SELECT u.order_id, count(*) AS units, min(u.product_id) AS lowest, max(u.product_id) AS highest
    FROM units AS u
    WHERE u.order_id IS NOT NULL
    GROUP BY u.order_id
)
SELECT
    coalesce(o.order_id, w.order_id)::text AS id,
    (
        coalesce(w.units, 0) = CASE
            WHEN o.status IN ('payment_failed', 'expired', 'cancelled', 'failed') OR o.restocked THEN 0
            ELSE o.quantity
        END
        AND coalesce(w.lowest, o.product_id) = o.product_id AND coalesce(w.highest, o.product_id) = o.product_id
    ) IS NOT TRUE AS bad
FROM orders AS o
FULL JOIN owned AS w ON o.order_id = w.order_id;

-- name: I5_histories
-- The events of each order have no gap, start with version 1 `queued` at the creation of the order, follow the
-- transition table in time, and end with the order's last change. Each event belongs to an order.
WITH steps AS (
    SELECT
        e.order_id, e.version, e.status, e.at,
        lag(e.version) OVER w AS version_before, lag(e.status) OVER w AS status_before, lag(e.at) OVER w AS at_before,
        lead(e.version) OVER w AS version_after
    FROM order_events AS e
    WINDOW w AS (PARTITION BY e.order_id ORDER BY e.version)
),
followed AS (
    SELECT
        s.order_id, max(s.version) AS version, min(s.at) AS first_at, max(s.at) AS last_at,
        max(s.status) FILTER (WHERE s.version_after IS NULL) AS status,
        bool_and((CASE
            WHEN s.version_before IS NULL THEN s.version = 1 AND s.status = 'queued'
            ELSE
                s.version = s.version_before + 1 AND s.at >= s.at_before
                AND order_transition_allowed_v2(s.status_before, s.status)
        END) IS TRUE) AS sound
    FROM steps AS s
    GROUP BY s.order_id
)
SELECT
    coalesce(o.order_id, f.order_id)::text AS id,
    (
        f.sound AND f.version = o.version AND f.status = o.status
        AND f.first_at BETWEEN o.created_at AND o.created_at + interval '1 minute'
        AND o.updated_at = CASE WHEN o.version = 1 THEN o.created_at ELSE f.last_at END
        AND o.updated_at <= clock_timestamp()
    ) IS NOT TRUE AS bad
FROM orders AS o
FULL JOIN followed AS f ON o.order_id = f.order_id;

-- name: I7_attempts
-- A confirmed order has one captured attempt over exactly its price, and an order that ended unconfirmed has none. No
-- final order has an open attempt. The newest attempt has the number and the outcome that the order shows; keys belong
-- to the order. A payment that a buyer starts was requested.
WITH tried AS (
    SELECT
        o.order_id, max(a.attempt) AS newest,
        bool_and((
            a.attempt BETWEEN 1 AND o.attempt
            AND (a.amount_minor, a.currency) = (o.unit_price_minor * o.quantity, o.currency)
            AND (a.gateway_key = o.order_id::text OR starts_with(a.gateway_key, o.order_id::text || ':'))
            AND a.begun_at BETWEEN o.created_at AND coalesce(a.finished_at, clock_timestamp())
            AND (a.outcome IS NULL) = (a.finished_at IS NULL) AND a.sent IS NOT NULL
            AND coalesce(a.finished_at <= clock_timestamp(), true)
            AND (a.attempt = 1 OR NOT EXISTS (
                SELECT 1 FROM payment_attempts AS e
                WHERE e.order_id = a.order_id AND e.attempt < a.attempt AND e.begun_at > a.begun_at
            ))
            AND CASE
                WHEN a.attempt < o.attempt THEN a.outcome IN ('superseded', 'unknown', 'unsent')
                WHEN o.status = 'processing_payment' THEN a.outcome IS NULL OR a.outcome = 'unsent'
                WHEN o.status = 'payment_unknown' THEN a.outcome IS NULL OR a.outcome IN ('unknown', 'unsent')
                WHEN o.status = 'payment_failed'
                    THEN a.outcome IN ('declined', 'cancelled') AND a.finished_at <= o.updated_at
                ELSE a.outcome = 'captured' AND a.reference IS NOT NULL AND a.finished_at <= o.updated_at
            END
        ) IS TRUE) AS sound
    FROM payment_attempts AS a
    INNER JOIN orders AS o ON a.order_id = o.order_id
    GROUP BY o.order_id
)
SELECT
    o.order_id::text AS id,
    (
        o.attempt = coalesce(t.newest, 0) AND coalesce(t.sound, true)
        AND (o.attempt = 0)
        = (o.status IN ('queued', 'processing', 'awaiting_payment', 'expired', 'cancelled', 'failed'))
        AND CASE
            WHEN o.payment_mode = 'automatic' OR o.status IN ('queued', 'processing', 'expired', 'cancelled')
                THEN o.pay_requested_at IS NULL
            WHEN o.pay_requested_at IS NULL
                THEN o.status = 'failed' OR (o.status = 'awaiting_payment' AND o.job_id IS NULL)
            WHEN o.status = 'awaiting_payment' THEN o.pay_requested_at BETWEEN o.updated_at AND clock_timestamp()
            ELSE o.pay_requested_at BETWEEN o.created_at AND o.updated_at
        END
    ) IS NOT TRUE AS bad
FROM orders AS o
LEFT JOIN tried AS t ON o.order_id = t.order_id
UNION ALL
SELECT a.order_id::text, true
FROM payment_attempts AS a
WHERE NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.order_id = a.order_id);

-- name: I7_refunds
-- What is back of an order is the sum of its refunds that succeeded, and at most its price: the whole price of a refunded
-- order and less of a confirmed one. An order whose refund is pending waits for what is left. Each refund belongs to a
-- paid order, under its own key if it was asked for here. Units were released if and only if the refund that completed
-- the price says so.
WITH given AS (
    SELECT
        r.order_id, count(*) AS refunds, max(r.number) AS newest,
        coalesce(sum(r.amount_minor) FILTER (WHERE r.state = 'succeeded'), 0) AS refunded_minor,
        coalesce(sum(r.amount_minor) FILTER (WHERE r.state = 'pending'), 0) AS pending_minor,
        count(*) FILTER (WHERE r.state = 'pending') AS pending,
        coalesce(bool_or(r.restock) FILTER (WHERE r.state = 'succeeded'), false) AS restocked,
        bool_and((
            r.number > 0 AND r.amount_minor > 0 AND r.currency = o.currency
            AND r.amount_minor <= o.unit_price_minor * o.quantity
            AND r.state IN ('pending', 'succeeded', 'failed') AND r.restock IS NOT NULL AND r.sent IS NOT NULL
            AND (r.requested_by IS NULL) = (r.refund_key IS NULL)
            AND coalesce(r.refund_key = r.order_id || ':refund:' || r.number, r.state = 'succeeded')
            AND (r.state <> 'succeeded' OR r.reference IS NOT NULL)
            AND (r.state = 'pending') = (r.finished_at IS NULL) AND (r.state = 'pending') = (r.due_at IS NOT NULL)
            AND (r.state = 'pending' OR r.job_id IS NULL)
            AND r.attempt >= 0 AND length(r.reason) > 0
            AND r.created_at > o.created_at AND r.created_at <= coalesce(r.finished_at, clock_timestamp())
            AND coalesce(r.finished_at <= clock_timestamp(), true)
            AND (r.bounced_at IS NULL OR (r.state = 'succeeded' AND r.bounced_at BETWEEN r.finished_at AND clock_timestamp()))
        ) IS TRUE) AS sound
    FROM refunds AS r
    INNER JOIN orders AS o ON r.order_id = o.order_id
    GROUP BY r.order_id
)
SELECT
    o.order_id::text AS id,
    (
        o.refunded_minor = coalesce(g.refunded_minor, 0) AND coalesce(g.sound, true)
        AND coalesce(g.refunds = g.newest AND g.pending <= 1, true) AND o.disputed IS NOT NULL
        AND o.restocked = (o.status = 'refunded' AND coalesce(g.restocked, false))
        AND CASE o.status
            WHEN 'refunded' THEN o.refunded_minor = o.unit_price_minor * o.quantity AND g.pending = 0
            WHEN 'refund_pending'
                THEN
                    g.pending = 1 AND o.refunded_minor < o.unit_price_minor * o.quantity
                    AND o.refunded_minor + g.pending_minor >= o.unit_price_minor * o.quantity
            WHEN 'confirmed'
                THEN
                    o.refunded_minor + coalesce(g.pending_minor, 0) < o.unit_price_minor * o.quantity
                    AND coalesce(NOT g.restocked, true)
            ELSE g.refunds IS NULL
        END
    ) IS NOT TRUE AS bad
FROM orders AS o
LEFT JOIN given AS g ON o.order_id = g.order_id
UNION ALL
SELECT r.order_id::text, true
FROM refunds AS r
WHERE NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.order_id = r.order_id);

-- name: I7_manual
-- What an operator recorded agrees with the order: the payment is its whole price, and its reference is that of the attempt
-- that confirmed the order, or will be; each other entry is a refund that succeeded, or will.
SELECT
    e.order_id::text AS id,
    (
        e.currency = o.currency AND e.recorded_by IS NOT NULL AND length(e.reference) > 0
        AND e.recorded_at BETWEEN o.created_at AND clock_timestamp()
        AND CASE
            WHEN e.number = 0
                THEN
                    e.amount_minor = o.unit_price_minor * o.quantity AND o.pay_requested_at IS NOT NULL
                    AND CASE
                        WHEN o.status IN ('confirmed', 'refund_pending', 'refunded') THEN a.reference = e.reference
                        ELSE o.status IN ('awaiting_payment', 'processing_payment', 'payment_unknown')
                    END
            ELSE
                r.amount_minor = e.amount_minor AND (r.state = 'pending' OR r.reference = e.reference)
                AND r.state <> 'failed'
        END
    ) IS NOT TRUE AS bad
FROM manual_entries AS e
LEFT JOIN orders AS o ON e.order_id = o.order_id
LEFT JOIN payment_attempts AS a ON e.order_id = a.order_id AND a.outcome = 'captured'
LEFT JOIN refunds AS r ON e.order_id = r.order_id AND e.number = r.number;

-- name: I8_buyers_whole
-- Per buyer and product: the count equals the sum of the quantities of orders that hold units, so each order that ended
-- unconfirmed, and each that was refunded with its units, released them exactly once.
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
    coalesce(b.user_id, h.user_id)::text AS id,
    (
        (b.units = h.units OR (h.units IS NULL AND b.units = 0)) AND b.released_at <= clock_timestamp()
        AND b.cooling >= 0 AND (b.cooling = 0) = (b.cools_until IS NULL)
        AND coalesce(b.cools_until, '-infinity') < clock_timestamp() + interval '1 day 1 minute'
    ) IS NOT TRUE AS bad
FROM buyer_units AS b
FULL JOIN held AS h ON b.product_id = h.product_id AND b.user_id = h.user_id;

-- name: I8_returns
-- Each return to the gate belongs to an order that released its units, under the epoch of the gate.
SELECT
    r.order_id::text AS id,
    (
        (o.status IN ('payment_failed', 'expired', 'cancelled', 'failed') OR o.restocked)
        AND (r.product_id, r.user_id, r.quantity, r.epoch) = (o.product_id, o.user_id, o.quantity, p.epoch)
    ) IS NOT TRUE AS bad
FROM gate_returns AS r
LEFT JOIN orders AS o ON r.order_id = o.order_id
LEFT JOIN products AS p ON r.product_id = p.product_id;

-- name: I9_requests
-- Each order has its request of kind `order`, of the same user and minute. Each such request has its order, and a
-- fingerprint if it has a key. A user has one request per key.
SELECT
    coalesce(o.order_id, r.order_id)::text AS id,
    (
        r.user_id = o.user_id AND (r.key IS NULL) = (r.fingerprint IS NULL)
        AND r.created_at BETWEEN o.created_at - interval '1 minute' AND o.created_at
    ) IS NOT TRUE AS bad
FROM orders AS o
FULL JOIN (
    SELECT q.order_id, q.user_id, q.key, q.fingerprint, q.created_at
    FROM requests AS q WHERE q.kind = 'order'
) AS r ON o.order_id = r.order_id
UNION ALL
SELECT d.key, true
FROM requests AS d
WHERE d.kind = 'order' AND d.key IS NOT NULL
GROUP BY d.user_id, d.key
HAVING count(*) > 1
UNION ALL
SELECT v.order_id::text, true
FROM requests AS v
WHERE v.kind IS NULL OR v.kind NOT IN ('order', 'void');

-- name: I10_limits
-- No buyer held more units than the limit that was valid when an order was made. A buyer is an account, or all
-- accounts with one e-mail root if the terms of the product say so. Only buyers who ordered more than the smallest
-- limit of all times are checked. Units of an order that ended unpaid count until the cool-down that was valid at its end.
WITH terms AS (
    SELECT
        t.product_id, t.limit_per_buyer, t.limit_per, t.cooldown_s, t.valid_from,
        lead(t.valid_from, 1, 'infinity') OVER (PARTITION BY t.product_id ORDER BY t.valid_from) AS valid_until
    FROM product_terms AS t
),
limited AS (
    SELECT
        t.product_id, min(t.limit_per_buyer) AS least_limit, bool_or(t.limit_per = 'email_root') AS by_root
    FROM product_terms AS t
    WHERE t.limit_per_buyer IS NOT NULL
    GROUP BY t.product_id
),
bought AS (
    SELECT
        o.product_id, o.user_id, o.order_id, o.quantity, o.created_at, o.restocked, l.least_limit,
        CASE WHEN l.by_root THEN limit_id_v1(u.email_key, u.email) ELSE o.user_id END AS buyer_id
    FROM orders AS o
    INNER JOIN limited AS l ON o.product_id = l.product_id
    LEFT JOIN users AS u ON l.by_root AND o.user_id = u.user_id
),
followed AS (
    SELECT b.product_id, b.buyer_id, sum(b.quantity) > min(b.least_limit) AS closely
    FROM bought AS b
    GROUP BY b.product_id, b.buyer_id
),
events AS (
    SELECT
        e.order_id, e.version, e.status,
        e.at + CASE
            WHEN e.status IN ('payment_failed', 'expired', 'cancelled') THEN coalesce(t.cooldown_s, 0) ELSE 0
        END * interval '1 second' AS at
    FROM order_events AS e
    INNER JOIN bought AS o ON e.order_id = o.order_id
    LEFT JOIN terms AS t ON o.product_id = t.product_id AND e.at >= t.valid_from AND e.at < t.valid_until
),
changes AS (
    SELECT
        o.product_id, o.user_id, o.buyer_id, o.order_id, o.created_at, e.version = 1 AS claims, e.at,
        CASE WHEN e.version = 1 THEN o.quantity ELSE -o.quantity END AS units
    FROM followed AS f
    INNER JOIN bought AS o ON f.product_id = o.product_id AND f.buyer_id = o.buyer_id
    INNER JOIN events AS e
        ON o.order_id = e.order_id
        AND (
            e.version = 1 OR e.status IN ('payment_failed', 'expired', 'cancelled', 'failed')
            OR (e.status = 'refunded' AND o.restocked)
        )
    WHERE f.closely
),
holdings AS (
    SELECT
        c.product_id, c.user_id, c.order_id, c.created_at, c.claims,
        sum(c.units) OVER (PARTITION BY c.product_id, c.user_id ORDER BY c.at, c.claims) AS of_account,
        sum(c.units) OVER (PARTITION BY c.product_id, c.buyer_id ORDER BY c.at, c.claims) AS of_buyer
    FROM changes AS c
)
SELECT f.buyer_id::text AS id, false AS bad
FROM followed AS f
WHERE NOT f.closely
UNION ALL
SELECT
    h.user_id::text,
    coalesce(CASE t.limit_per WHEN 'account' THEN h.of_account ELSE h.of_buyer END > t.limit_per_buyer, false)
FROM holdings AS h
INNER JOIN terms AS t
    ON h.product_id = t.product_id AND h.created_at >= t.valid_from AND h.created_at < t.valid_until
WHERE h.claims;

-- name: I11_window
-- No order was accepted outside the sale window or during a pause that was valid when the order was made.
WITH terms AS (
    SELECT
        t.product_id, t.starts_at, t.ends_at, t.paused, t.valid_from,
        lead(t.valid_from, 1, 'infinity') OVER (PARTITION BY t.product_id ORDER BY t.valid_from) AS valid_until
    FROM product_terms AS t
)
SELECT
    o.order_id::text AS id,
    (t.paused OR coalesce(o.created_at < t.starts_at, false) OR coalesce(o.created_at >= t.ends_at, false)) AS bad
FROM orders AS o
INNER JOIN terms AS t
    ON o.product_id = t.product_id AND o.created_at >= t.valid_from AND o.created_at < t.valid_until;

-- name: I12_wakeups
-- Each order that is not final has a due time in the near future, is not overdue by more than the bound, and has not
-- been in its state for longer than its bound; a refund that an operator makes may take 30 days. A final order has no due
-- time. A job that an order names belongs to the order.
WITH windows AS (
    SELECT t.product_id, max(t.payment_window_s) * interval '1 second' AS longest
    FROM product_terms AS t
    GROUP BY t.product_id
)
SELECT
    o.order_id::text AS id,
    (CASE
        WHEN o.status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'failed', 'refunded')
            THEN o.due_at IS NULL AND o.job_id IS NULL
        ELSE
            o.due_at BETWEEN clock_timestamp() - $1::float8 * interval '1 second'
            AND clock_timestamp() + $2::float8 * interval '1 second' + coalesce(w.longest, interval '0')
            AND o.updated_at + $2::float8 * interval '1 second' + CASE
                WHEN o.status = 'awaiting_payment' AND o.payment_mode = 'by_buyer' AND o.pay_requested_at IS NULL
                    THEN coalesce(w.longest, interval '1 day')
                WHEN
                    o.status = 'refund_pending'
                    AND EXISTS (SELECT 1 FROM manual_entries AS e WHERE e.order_id = o.order_id)
                    THEN interval '30 days'
                ELSE interval '0'
            END > clock_timestamp()
            AND coalesce(j.args::text LIKE '%' || o.order_id || '%', true)
    END) IS NOT TRUE AS bad
FROM orders AS o
LEFT JOIN windows AS w ON o.product_id = w.product_id
LEFT JOIN procrastinate_jobs AS j ON o.due_at IS NOT NULL AND o.job_id = j.id;

-- name: I15_webhooks_whole
-- Each webhook was taken after it came, or waits for a job in the near future and not for longer than the bound.
SELECT
    e.event_id AS id,
    (
        e.provider IS NOT NULL AND e.type IS NOT NULL AND e.received_at <= clock_timestamp()
        AND CASE
            WHEN e.taken_at IS NOT NULL
                THEN e.due_at IS NULL AND e.taken_at BETWEEN e.received_at AND clock_timestamp()
            ELSE
                e.reference IS NOT NULL
                AND e.received_at > clock_timestamp() - $2::float8 * interval '1 second'
                AND e.due_at BETWEEN clock_timestamp() - $1::float8 * interval '1 second'
                AND clock_timestamp() + $2::float8 * interval '1 second'
        END
    ) IS NOT TRUE AS bad
FROM webhook_events AS e;

-- name: I15_intents
-- The intents of an order are numbered without a gap and have its price. The one that paid it is captured, and no other
-- is kept. Each other one is due in the near future, until it is cancelled or given back: within a day and the bound
-- after the order's end.
SELECT
    i.order_id::text AS id,
    (
        (i.amount_minor, i.currency) = (o.unit_price_minor * o.quantity, o.currency) AND i.provider IS NOT NULL
        AND i.created_at BETWEEN o.created_at AND i.updated_at AND i.updated_at <= clock_timestamp()
        AND i.looks >= 0 AND i.window_left IS NOT NULL
        AND i.number = (
            SELECT count(*) FROM payment_intents AS p WHERE p.order_id = i.order_id AND p.number <= i.number
        )
        AND CASE
            WHEN a.reference = i.reference
                THEN i.state = 'captured' AND i.due_at IS NULL
            WHEN i.state IN ('cancelled', 'refunded')
                THEN i.due_at IS NULL AND i.reference IS NOT NULL
            ELSE
                i.state IN ('opening', 'open', 'lost', 'authorized', 'captured')
                AND (i.reference IS NOT NULL OR i.state IN ('opening', 'lost'))
                AND i.due_at BETWEEN clock_timestamp() - $1::float8 * interval '1 second'
                AND clock_timestamp() + ($2::float8 + 3600) * interval '1 second'
                AND (
                    o.due_at IS NOT NULL
                    OR o.updated_at > clock_timestamp() - interval '1 day' - $2::float8 * interval '1 second'
                )
        END
    ) IS NOT TRUE AS bad
FROM payment_intents AS i
LEFT JOIN orders AS o ON i.order_id = o.order_id
LEFT JOIN payment_attempts AS a ON i.order_id = a.order_id AND a.outcome = 'captured';

-- name: I12_refunds
-- Each pending refund is due in the near future, and not overdue by more than the bound. A job that it names is its
-- order's.
SELECT
    r.order_id::text AS id,
    (
        r.due_at BETWEEN clock_timestamp() - $1::float8 * interval '1 second'
        AND clock_timestamp() + $2::float8 * interval '1 second'
        AND coalesce(j.args::text LIKE '%' || r.order_id || '%', true)
    ) IS NOT TRUE AS bad
FROM refunds AS r
LEFT JOIN procrastinate_jobs AS j ON r.job_id = j.id
WHERE r.state = 'pending';

-- name: I16_ids
-- Order ids of cell 0 are UUIDs of version 7, those of other cells are of version 8 and hold the cell; they were created
-- within an hour of their order.
WITH own AS (
    SELECT s.seqmin / 10000000 AS cell
    FROM pg_sequence AS s
    WHERE s.seqrelid = pg_get_serial_sequence('products', 'product_id')::regclass
)
SELECT
    o.order_id::text AS id,
    (
        CASE
            WHEN n.cell = 0 THEN substr(o.order_id::text, 15, 1) = '7'
            ELSE substr(o.order_id::text, 15, 4) = '8' || lpad(n.cell::text, 3, '0')
        END
        AND to_timestamp(('x' || translate(left(o.order_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
        BETWEEN o.created_at - interval '1 hour' AND o.created_at + interval '1 hour'
    ) IS NOT TRUE AS bad
FROM orders AS o
CROSS JOIN own AS n;

-- name: I22_terms
-- Each order has the name, price, currency and payment mode that were valid when it was made. The current values of
-- each product are its newest terms. Orders from before the first recorded terms are not checked.
WITH terms AS (
    SELECT
        t.*, lead(t.valid_from, 1, 'infinity') OVER w AS valid_until, min(t.valid_from) OVER w AS kept_since
    FROM product_terms AS t
    WINDOW w AS (PARTITION BY t.product_id ORDER BY t.valid_from)
)
SELECT
    o.order_id::text AS id,
    (
        o.created_at >= p.created_at
        AND (
            (t.name, t.price_minor, t.currency, t.payment_mode)
            = (o.product_name, o.unit_price_minor, o.currency, o.payment_mode)
            OR o.created_at < (SELECT min(k.valid_from) FROM product_terms AS k WHERE k.product_id = o.product_id)
        )
    ) IS NOT TRUE AS bad
FROM orders AS o
LEFT JOIN products AS p ON o.product_id = p.product_id
LEFT JOIN terms AS t
    ON o.product_id = t.product_id AND o.created_at >= t.valid_from AND o.created_at < t.valid_until
UNION ALL
SELECT
    coalesce(p.product_id, t.product_id)::text,
    (
        t.valid_from <= p.updated_at AND p.created_at <= t.kept_since AND p.epoch > 0
        AND p.updated_at <= clock_timestamp()
        AND (t.name, t.price_minor, t.currency, t.allotment, t.payment_mode, t.payment_window_s, t.limit_per, t.paused)
        = (p.name, p.price_minor, p.currency, p.allotment, p.payment_mode, p.payment_window_s, p.limit_per, p.paused)
        AND t.cooldown_s = p.cooldown_s
        AND (t.limit_per_buyer, t.starts_at, t.ends_at) IS NOT DISTINCT FROM (p.limit_per_buyer, p.starts_at, p.ends_at)
    ) IS NOT TRUE
FROM products AS p
FULL JOIN (SELECT n.* FROM terms AS n WHERE n.valid_until = 'infinity') AS t ON p.product_id = t.product_id
UNION ALL
SELECT t.product_id::text, true
FROM product_terms AS t
WHERE (t.name, t.price_minor, t.currency, t.allotment, t.payment_mode, t.payment_window_s, t.limit_per, t.paused)
    IS NOT NULL IS FALSE;

-- name: I23_references_whole
-- A row that another row refers to exists and is older.
SELECT o.order_id::text AS id, (u.created_at <= o.created_at) IS NOT TRUE AS bad
FROM orders AS o
LEFT JOIN users AS u ON o.user_id = u.user_id
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
LEFT JOIN users AS u ON b.user_id = u.user_id
LEFT JOIN products AS p ON b.product_id = p.product_id;

-- name: I24_keys_whole
-- No two rows of a table have the same key.
SELECT k.name AS id, k.rows <> k.keys AS bad
FROM (
    SELECT 'users' AS name, count(*) AS rows, count(DISTINCT u.user_id) AS keys FROM users AS u
    UNION ALL
    SELECT 'products', count(*), count(DISTINCT p.product_id) FROM products AS p
    UNION ALL
    SELECT 'product_live', count(*), count(DISTINCT l.product_id) FROM product_live AS l
    UNION ALL
    SELECT 'product_terms', count(*), count(DISTINCT row(t.product_id, t.valid_from)) FROM product_terms AS t
    UNION ALL
    SELECT 'requests', count(*), count(DISTINCT r.order_id) FROM requests AS r
    UNION ALL
    SELECT 'orders', count(*), count(DISTINCT o.order_id) FROM orders AS o
    UNION ALL
    SELECT 'payment_attempts', count(*), count(DISTINCT row(a.order_id, a.attempt)) FROM payment_attempts AS a
    UNION ALL
    SELECT 'refunds', count(*), count(DISTINCT row(r.order_id, r.number)) FROM refunds AS r
    UNION ALL
    SELECT 'manual_entries', count(*), count(DISTINCT row(e.order_id, e.number)) FROM manual_entries AS e
    UNION ALL
    SELECT 'unit_pools', count(*), count(DISTINCT o.product_id) FROM unit_pools AS o
    UNION ALL
    SELECT 'stock_raises', count(*), count(DISTINCT s.product_id) FROM stock_raises AS s
    UNION ALL
    SELECT 'product_restocks', count(*), count(DISTINCT r.product_id) FROM product_restocks AS r
    UNION ALL
    SELECT 'gate_returns', count(*), count(DISTINCT g.order_id) FROM gate_returns AS g
    UNION ALL
    SELECT 'buyer_units', count(*), count(DISTINCT row(b.product_id, b.user_id)) FROM buyer_units AS b
    UNION ALL
    SELECT 'payment_intents', count(*), count(DISTINCT row(i.order_id, i.number)) FROM payment_intents AS i
    UNION ALL
    SELECT 'webhook_events', count(*), count(DISTINCT row(w.provider, w.event_id)) FROM webhook_events AS w
    UNION ALL
    SELECT 'order_stragglers', count(*), count(DISTINCT s.order_id) FROM order_stragglers AS s
    UNION ALL
    SELECT 'order_totals', count(*), count(DISTINCT row(t.product_id, t.status, t.currency)) FROM order_totals AS t
    UNION ALL
    SELECT 'product_departures', count(*), count(DISTINCT d.product_id) FROM product_departures AS d
    UNION ALL
    SELECT 'product_arrivals', count(*), count(DISTINCT a.product_id) FROM product_arrivals AS a
    UNION ALL
    SELECT 'sale_archives', count(*), count(DISTINCT s.product_id) FROM sale_archives AS s
    UNION ALL
    SELECT 'archived_orders', count(*), count(DISTINCT a.order_id) FROM archived_orders AS a
    UNION ALL
    SELECT 'archived_money', count(*), count(DISTINCT row(m.product_id, m.currency, m.at)) FROM archived_money AS m
) AS k;

-- name: I25_totals_whole
-- The totals equal the sums of the orders that they count: the orders up to the mark, without those that were open
-- when the mark passed them or that left the state in which they are counted, and the archived orders.
WITH counted AS (
    SELECT
        b.product_id, b.status, b.currency, count(*) AS orders, sum(b.quantity) AS units,
        sum(b.quantity * b.unit_price_minor) AS value_minor
    FROM (
        SELECT o.product_id, coalesce(s.counted, o.status) AS status, o.currency, o.quantity, o.unit_price_minor
        FROM orders AS o
        INNER JOIN order_mark AS m ON o.order_id <= m.order_id
        LEFT JOIN order_stragglers AS s ON o.order_id = s.order_id
        WHERE s.order_id IS NULL OR s.counted IS NOT NULL
        UNION ALL
        SELECT a.product_id, a.status, a.currency, a.quantity, a.unit_price_minor FROM archived_orders AS a
    ) AS b
    GROUP BY b.product_id, b.status, b.currency
)
SELECT
    coalesce(t.product_id, c.product_id)::text AS id,
    (
        coalesce(t.orders, 0) = coalesce(c.orders, 0) AND coalesce(t.units, 0) = coalesce(c.units, 0)
        AND coalesce(t.value_minor, 0) = coalesce(c.value_minor, 0)
        AND coalesce(t.status, c.status) IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'failed', 'refunded')
    ) IS NOT TRUE AS bad
FROM order_totals AS t
FULL JOIN counted AS c ON t.product_id = c.product_id AND t.status = c.status AND t.currency = c.currency
UNION ALL
SELECT s.order_id::text, true
FROM order_stragglers AS s
WHERE NOT EXISTS (
    SELECT 1
    FROM orders AS o
    INNER JOIN order_mark AS m ON o.order_id <= m.order_id
    WHERE o.order_id = s.order_id
)
UNION ALL
SELECT 'mark', count(*) <> 1 FROM order_mark AS m WHERE m.order_id <= first_order_id_v1(clock_timestamp());

-- name: I25_restocks_whole
-- The sum of units that refunds released equals that of the refunded orders that released them, archived ones among them.
SELECT
    coalesce(s.product_id, o.product_id)::text AS id,
    (s.units = o.units) IS NOT TRUE AS bad
FROM product_restocks AS s
FULL JOIN (
    SELECT r.product_id, sum(r.quantity) AS units
    FROM (
        SELECT l.product_id, l.quantity FROM orders AS l WHERE l.restocked
        UNION ALL
        SELECT a.product_id, a.quantity FROM archived_orders AS a WHERE a.restocked
    ) AS r
    GROUP BY r.product_id
) AS o ON s.product_id = o.product_id;

-- name: I26_told
-- Each change of an order in the last day that a target wants to be told of has its message, unless the target wants it
-- only since ten seconds before it. An order that a failed refund leaves confirmed is told of once. A delivered message is
-- kept for two days at least; the e-mails of an erased buyer are deleted.
SELECT
    e.order_id::text AS id,
    (m.event = 'order.' || e.status) IS NOT TRUE AS bad
FROM order_events AS e
INNER JOIN outbox_targets AS t ON 'order.' || e.status = ANY(t.events)
LEFT JOIN outbox AS m
    ON e.order_id = m.order_id AND e.version = m.order_version AND m.back_minor = 0 AND m.failed = '' AND t.target_id = m.target_id
WHERE
    e.at > clock_timestamp() - interval '1 day' AND e.at > t.wanted_since + interval '10 seconds'
    AND NOT (
        t.target_id = 'mail' AND EXISTS (
            SELECT 1
            FROM orders AS o
            INNER JOIN users AS u ON o.user_id = u.user_id
            WHERE o.order_id = e.order_id AND u.email = 'erased-' || u.user_id || '@erased.invalid'
        )
    )
    AND NOT (
        e.status = 'confirmed' AND EXISTS (
            SELECT 1
            FROM order_events AS f
            WHERE f.order_id = e.order_id AND f.status = 'confirmed' AND f.version < e.version
        )
    );

-- name: I26_told_of_money
-- Each part of the price that was given back in the last day, each payment that was given back because it did not pay its
-- order, and each refund that failed has its message, for the same targets.
WITH told AS (
    SELECT r.order_id, r.finished_at AS at, 'order.refunded' AS event, '' AS failed, r.back_minor
    FROM (
        SELECT
            n.order_id, n.finished_at,
            sum(n.amount_minor) OVER (PARTITION BY n.order_id ORDER BY n.finished_at, n.number) AS back_minor
        FROM refunds AS n
        WHERE n.state = 'succeeded'
    ) AS r
    INNER JOIN orders AS o ON r.order_id = o.order_id
    WHERE r.back_minor < o.unit_price_minor * o.quantity
    UNION ALL
    SELECT
        i.order_id, i.updated_at, 'order.refunded', '',
        sum(i.amount_minor) OVER (PARTITION BY i.order_id ORDER BY i.updated_at, i.number)
    FROM payment_intents AS i
    WHERE i.state = 'refunded'
    UNION ALL
    SELECT r.order_id, coalesce(r.bounced_at, r.finished_at), 'order.refund_failed', 'refund:' || r.number, 0
    FROM refunds AS r
    WHERE (r.state = 'failed' AND r.problem IS DISTINCT FROM 'withdrawn') OR r.bounced_at IS NOT NULL
)
SELECT
    s.order_id::text AS id,
    m.message_id IS NULL AS bad
FROM told AS s
INNER JOIN outbox_targets AS t ON s.event = ANY(t.events)
LEFT JOIN outbox AS m
    ON s.order_id = m.order_id AND s.event = m.event AND s.failed = m.failed AND s.back_minor = m.back_minor
    AND t.target_id = m.target_id
WHERE
    s.at > clock_timestamp() - interval '1 day' AND s.at > t.wanted_since + interval '10 seconds'
    AND NOT (
        t.target_id = 'mail' AND EXISTS (
            SELECT 1
            FROM orders AS o
            INNER JOIN users AS u ON o.user_id = u.user_id
            WHERE o.order_id = s.order_id AND u.email = 'erased-' || u.user_id || '@erased.invalid'
        )
    );

-- name: I26_messages
-- Each message about an order says what the order is and was written when the order changed, or, of money given back,
-- later; a message that waits is due within two days.
SELECT
    m.message_id::text AS id,
    (
        m.message_id IS NOT NULL
        AND m.event = CASE
            WHEN m.failed <> '' THEN 'order.refund_failed'
            WHEN m.back_minor > 0 THEN 'order.refunded'
            ELSE 'order.' || e.status
        END
        AND m.back_minor = coalesce((m.facts ->> 'back_minor')::bigint, 0) AND m.failed = coalesce(m.facts ->> 'failed', '')
        AND m.product_id = o.product_id
        AND m.created_at > e.at - interval '1 hour'
        AND (m.back_minor > 0 OR m.failed <> '' OR m.created_at < e.at + interval '1 hour')
        AND m.facts @> jsonb_build_object(
            'order_id', o.order_id, 'user_id', o.user_id, 'product_id', o.product_id, 'product_name', o.product_name,
            'quantity', o.quantity, 'unit_price_minor', o.unit_price_minor, 'currency', o.currency,
            'status', e.status, 'order_version', m.order_version, 'created_at', o.created_at
        )
        AND m.attempts >= 0
        AND (m.due_at IS NULL) = (m.outcome IS NOT NULL) AND (m.due_at IS NULL) = (m.ended_at IS NOT NULL)
        AND (m.outcome IS NULL OR m.outcome IN ('delivered', 'dead'))
        AND coalesce(m.due_at, m.created_at) < clock_timestamp() + interval '2 days'
        AND coalesce(m.ended_at, m.created_at) BETWEEN m.created_at AND clock_timestamp()
        AND coalesce(m.resent_at, m.created_at) BETWEEN m.created_at AND clock_timestamp()
    ) IS NOT TRUE AS bad
FROM outbox AS m
INNER JOIN orders AS o ON m.order_id = o.order_id
LEFT JOIN order_events AS e ON m.order_id = e.order_id AND m.order_version = e.version;

-- name: I26_messages_whole
-- Each message is about an order or a product that there is, and no two to one target are about the same change.
SELECT
    m.message_id::text AS id,
    (
        m.message_id IS NOT NULL AND p.product_id IS NOT NULL
        AND (m.order_id IS NULL) = (m.order_version IS NULL)
        AND (m.order_id IS NULL) = (m.event = 'stock.sold_out')
        AND (m.order_id IS NULL OR EXISTS (SELECT 1 FROM orders AS o WHERE o.order_id = m.order_id))
        AND m.facts ->> 'product_id' = m.product_id::text
        AND m.created_at <= clock_timestamp() AND m.attempts >= 0
        AND (m.due_at IS NULL) = (m.outcome IS NOT NULL) AND (m.due_at IS NULL) = (m.ended_at IS NOT NULL)
        AND (m.outcome IS NULL OR m.outcome IN ('delivered', 'dead'))
        AND coalesce(m.due_at, m.created_at) < clock_timestamp() + interval '2 days'
        AND coalesce(m.ended_at, m.created_at) BETWEEN m.created_at AND clock_timestamp()
        AND coalesce(m.resent_at, m.created_at) BETWEEN m.created_at AND clock_timestamp()
        AND count(*) OVER (PARTITION BY m.message_id) = 1
        AND (
            m.order_id IS NULL
            OR count(*) OVER (PARTITION BY m.order_id, m.order_version, m.back_minor, m.failed, m.target_id) = 1
        )
    ) IS NOT TRUE AS bad
FROM outbox AS m
LEFT JOIN products AS p ON m.product_id = p.product_id;

-- name: I26_sold_out_whole
-- Each product that sold out in the last day, as its orders and the instant at which units came free again show, has its
-- message to each target that wants to be told, unless the target was told of another one in that time. What is asked for:
-- one that had not ended when the last unit was taken. Of a product that moved to another cell nobody took the last unit.
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
        FROM outbox AS m
        WHERE m.product_id = s.product_id AND m.target_id = t.target_id AND m.order_id IS NULL
            AND m.created_at < s.until AND coalesce(m.ended_at, 'infinity') >= s.at
    ) AS bad
FROM sold AS s
INNER JOIN outbox_targets AS t ON 'stock.sold_out' = ANY(t.events)
WHERE
    s.at > t.wanted_since + interval '10 seconds'
    AND s.product_id NOT IN (SELECT d.product_id FROM product_departures AS d);

-- name: I26_targets
-- Each target is the buyers or an endpoint with its secret, wants events that there are, and was added in the past.
SELECT
    t.target_id AS id,
    (
        (t.url IS NULL) = (t.target_id = 'mail') AND (t.secret IS NULL) = (t.url IS NULL)
        AND t.created_at <= clock_timestamp() AND t.wanted_since BETWEEN t.created_at AND clock_timestamp()
        AND t.events <@ ARRAY[
            'order.confirmed', 'order.payment_failed', 'order.expired', 'order.cancelled', 'order.refunded',
            'order.refund_failed', 'stock.sold_out'
        ]
        AND cardinality(t.events) > 0
        AND count(*) OVER (PARTITION BY t.target_id) = 1
    ) IS NOT TRUE AS bad
FROM outbox_targets AS t;

-- name: I27_archived_whole
-- Each archived order is a final one of a sale that is archived, with the terms that were valid when it was made; no row of
-- it is left. Its account is older. What was given back of it is at most its price, and the whole price if it is refunded.
WITH terms AS (
    SELECT
        t.*, lead(t.valid_from, 1, 'infinity') OVER w AS valid_until
    FROM product_terms AS t
    WINDOW w AS (PARTITION BY t.product_id ORDER BY t.valid_from)
)
SELECT
    a.order_id::text AS id,
    (
        s.product_id IS NOT NULL AND p.archived_at IS NOT NULL AND u.created_at <= a.created_at
        AND a.status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'failed', 'refunded')
        AND a.version > 1 AND a.changes >= 0 AND a.quantity > 0 AND a.restocked IS NOT NULL
        AND a.created_at <= a.updated_at AND a.updated_at <= coalesce(s.ended_at, clock_timestamp())
        AND (
            substr(a.order_id::text, 15, 1) = '7'
            OR substr(a.order_id::text, 15, 4) = '8' || lpad((a.product_id / 10000000)::text, 3, '0')
        )
        AND to_timestamp(('x' || translate(left(a.order_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
        BETWEEN a.created_at - interval '1 hour' AND a.created_at + interval '1 hour'
        AND (
            (t.name, t.price_minor, t.currency) = (a.product_name, a.unit_price_minor, a.currency)
            OR a.created_at < (SELECT min(k.valid_from) FROM product_terms AS k WHERE k.product_id = a.product_id)
        )
        AND CASE a.status
            WHEN 'refunded' THEN a.refunded_minor = a.unit_price_minor * a.quantity
            WHEN 'confirmed'
                THEN NOT a.restocked AND a.refunded_minor >= 0 AND a.refunded_minor < a.unit_price_minor * a.quantity
            ELSE NOT a.restocked AND a.refunded_minor = 0
        END
        AND NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.order_id = a.order_id)
    ) IS NOT TRUE AS bad
FROM archived_orders AS a
LEFT JOIN users AS u ON a.user_id = u.user_id
LEFT JOIN products AS p ON a.product_id = p.product_id
LEFT JOIN sale_archives AS s ON a.product_id = s.product_id
LEFT JOIN terms AS t
    ON a.product_id = t.product_id AND a.created_at >= t.valid_from AND a.created_at < t.valid_until;

-- name: I27_files_whole
-- The files of each archived sale have as many orders as were archived and are left in the tables, and none is left at the
-- end.
SELECT
    s.product_id::text AS id,
    (
        s.orders = coalesce(a.orders, 0) + coalesce(o.orders, 0) AND length(s.place) > 0
        AND (coalesce(a.orders, 0) = 0) = (coalesce(cardinality(s.digests), 0) = 0)
        AND s.begun_at >= p.archived_at AND s.begun_at <= coalesce(s.ended_at, clock_timestamp())
        AND (s.ended_at IS NULL OR (s.ended_at <= clock_timestamp() AND coalesce(o.orders, 0) = 0))
    ) IS NOT TRUE AS bad
FROM sale_archives AS s
LEFT JOIN products AS p ON s.product_id = p.product_id
LEFT JOIN (SELECT n.product_id, count(*) AS orders FROM archived_orders AS n GROUP BY n.product_id) AS a
    ON s.product_id = a.product_id
LEFT JOIN (SELECT n.product_id, count(*) AS orders FROM orders AS n GROUP BY n.product_id) AS o
    ON s.product_id = o.product_id;

-- name: I27_money_whole
-- The money that stays of an archived sale, by product and currency, is what its archived orders say.
WITH kept AS (
    SELECT
        m.product_id, m.currency, sum(m.payments) AS payments, sum(m.revenue_minor) AS revenue_minor,
        sum(m.refunded_minor) AS refunded_minor,
        bool_and((
            m.payments >= 0 AND m.revenue_minor >= 0 AND m.refunds >= 0 AND m.refunded_minor >= m.refunds
            AND (m.refunds = 0) = (m.refunded_minor = 0) AND (m.payments = 0) = (m.revenue_minor = 0)
            AND m.fees BETWEEN 0 AND m.payments AND m.fees_minor >= 0 AND (m.fees > 0 OR m.fees_minor = 0)
            AND m.at = date_bin('15 minutes', m.at, '2000-01-01 00:00:00+00'::timestamptz)
            AND m.at BETWEEN p.created_at - interval '15 minutes' AND coalesce(s.ended_at, clock_timestamp())
        ) IS TRUE) AS sound
    FROM archived_money AS m
    LEFT JOIN products AS p ON m.product_id = p.product_id
    LEFT JOIN sale_archives AS s ON m.product_id = s.product_id
    GROUP BY m.product_id, m.currency
),
told AS (
    SELECT
        a.product_id, a.currency, count(*) AS payments, sum(a.unit_price_minor * a.quantity) AS revenue_minor,
        sum(a.refunded_minor) AS refunded_minor
    FROM archived_orders AS a
    WHERE a.status IN ('confirmed', 'refunded')
    GROUP BY a.product_id, a.currency
)
SELECT
    coalesce(k.product_id, t.product_id)::text AS id,
    (
        k.sound AND k.payments = t.payments AND k.revenue_minor = t.revenue_minor AND k.refunded_minor = t.refunded_minor
    ) IS NOT TRUE AS bad
FROM kept AS k
FULL JOIN told AS t ON k.product_id = t.product_id AND k.currency = t.currency;

-- name: I28_records_whole
-- A product is archived, became another cell's product, and its buyers may ask for refunds, if the trail says so; an account has the role that the trail says
-- last, and one that there is. A revocation names the generation of its account, or every one if the account is gone.
WITH newest AS (
    SELECT DISTINCT ON (t.object, e.key) t.object, e.key AS name, e.value #>> '{}' AS value
    FROM admin_trail AS t
    CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(t.new) = 'object' THEN t.new END) AS e
    WHERE e.key IN ('archived_at', 'moved_to', 'refundable_by_buyer', 'role')
    ORDER BY t.object ASC, e.key ASC, t.trail_id DESC
)
SELECT
    n.object AS id,
    (CASE n.name
        WHEN 'archived_at' THEN n.value::timestamptz IS NOT DISTINCT FROM p.archived_at
        WHEN 'moved_to' THEN n.value::integer IS NOT DISTINCT FROM p.moved_to
        WHEN 'refundable_by_buyer' THEN n.value::boolean = p.refundable_by_buyer
    END) IS NOT TRUE AS bad
FROM newest AS n
INNER JOIN products AS p ON n.object = 'product/' || p.product_id
WHERE n.name <> 'role'
UNION ALL
SELECT n.object, (n.value = u.role) IS NOT TRUE
FROM newest AS n
INNER JOIN users AS u ON n.object = 'account/' || u.user_id
WHERE n.name = 'role'
UNION ALL
SELECT u.user_id::text, true
FROM users AS u
WHERE (u.role IN ('buyer', 'support', 'operator', 'admin')) IS NOT TRUE
UNION ALL
SELECT
    r.user_id::text,
    (
        r.generation = CASE WHEN u.user_id IS NULL THEN 2147483647 ELSE u.generation END
        AND r.revoked_at <= clock_timestamp()
    ) IS NOT TRUE
FROM revocations AS r
LEFT JOIN users AS u ON r.user_id = u.user_id;

-- name: I29_moves_whole
-- A product whose units left for another cell is archived, and its terms before had these units; it became a product of that
-- cell, or of none yet. No other product became one. A product that arrived was made with its units.
SELECT
    coalesce(d.product_id, p.product_id)::text AS id,
    (
        d.product_id IS NOT NULL AND p.archived_at >= d.left_at AND d.left_at <= clock_timestamp()
        AND d.to_cell <> d.product_id / 10000000
        AND (p.moved_to IS NULL OR p.moved_to / 10000000 = d.to_cell)
        AND (
            SELECT (t.allotment, t.paused) = (p.allotment + d.units, d.paused)
            FROM product_terms AS t
            WHERE t.product_id = d.product_id AND t.valid_from < d.left_at
            ORDER BY t.valid_from DESC
            LIMIT 1
        )
    ) IS NOT TRUE AS bad
FROM product_departures AS d
FULL JOIN products AS p ON d.product_id = p.product_id
WHERE d.product_id IS NOT NULL OR p.moved_to IS NOT NULL
UNION ALL
SELECT
    a.product_id::text,
    (
        a.product_id / 10000000 <> a.from_product_id / 10000000
        AND a.arrived_at BETWEEN p.created_at AND clock_timestamp()
        AND (
            SELECT t.allotment = a.units
            FROM product_terms AS t
            WHERE t.product_id = a.product_id
            ORDER BY t.valid_from
            LIMIT 1
        )
    ) IS NOT TRUE
FROM product_arrivals AS a
LEFT JOIN products AS p ON a.product_id = p.product_id;
