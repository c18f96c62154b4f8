-- name: accept
-- Makes orders of a batch of proposals in one transaction; see the function for the arrays. What is answered again is
-- written to the log, so that the COMMIT waits for the synchronous standby; see `replicate` in replication.sql.
SELECT
    outcome, order_id, product_id, product_name, quantity, unit_price_minor, currency, visible, held, cools_until,
    CASE
        WHEN outcome = 'replayed' AND current_setting('synchronous_standby_names') <> ''
            THEN pg_logical_emit_message(true, 'flashsale', '')
    END AS logged
FROM accept_orders_v5($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: void
-- Gives proposals up, waiting up to $2 for inserts in flight; gives each id that is decided with `order` or `void`. An order
-- is told of only after the synchronous standby has it.
SELECT
    order_id, kind,
    CASE
        WHEN kind = 'order' AND current_setting('synchronous_standby_names') <> ''
            THEN pg_logical_emit_message(true, 'flashsale', '')
    END AS logged
FROM void_requests_v3($1, $2);

-- name: replays
-- Looks up the orders that stand under ($1 user, $2 key), with their fingerprints, and at the same instant the free units
-- of $3 product. An order is told of only after the synchronous standby has it.
SELECT
    i.place, l.free, r.fingerprint, o.order_id, o.product_id, o.product_name, o.quantity, o.unit_price_minor,
    o.currency,
    CASE
        WHEN o.order_id IS NOT NULL AND current_setting('synchronous_standby_names') <> ''
            THEN pg_logical_emit_message(true, 'flashsale', '')
    END AS logged
FROM unnest($1::uuid [], $2::text [], $3::integer []) WITH ORDINALITY AS i (user_id, key, product_id, place)
INNER JOIN product_live AS l ON i.product_id = l.product_id
LEFT JOIN requests AS r ON r.kind = 'order' AND i.user_id = r.user_id AND i.key = r.key
LEFT JOIN orders AS o ON r.order_id = o.order_id;

-- name: free
-- Reads the free units of products; units of claims that are not committed are among them.
SELECT product_id, free FROM product_live WHERE product_id = ANY($1::integer []);

-- name: held
-- Reads the limit of ($1 product), how many units of it a buyer ($2 user) holds: the account, or all accounts with its
-- e-mail root; how many more of them still cool down, and until when.
SELECT
    i.place, p.limit_per_buyer, coalesce(b.units, 0) AS units,
    CASE WHEN b.cools_until > clock_timestamp() THEN b.cooling ELSE 0 END AS cooling, b.cools_until
FROM unnest($1::integer [], $2::uuid []) WITH ORDINALITY AS i (product_id, user_id, place)
INNER JOIN products AS p ON i.product_id = p.product_id AND p.limit_per = 'account'
LEFT JOIN buyer_units AS b ON i.product_id = b.product_id AND i.user_id = b.user_id
UNION ALL
SELECT
    i.place, p.limit_per_buyer, coalesce(b.units, 0) AS units,
    CASE WHEN b.cools_until > clock_timestamp() THEN b.cooling ELSE 0 END AS cooling, b.cools_until
FROM unnest($1::integer [], $2::uuid []) WITH ORDINALITY AS i (product_id, user_id, place)
INNER JOIN products AS p ON i.product_id = p.product_id AND p.limit_per = 'email_root'
INNER JOIN users AS u ON i.user_id = u.user_id
LEFT JOIN buyer_units AS b
    ON i.product_id = b.product_id AND b.limit_id = limit_id_v1(u.email_key, u.email) AND b.limit_id IS NOT NULL;

-- name: limit_ids
-- Reads the identity of each of these users that a limit per e-mail root counts.
SELECT user_id, limit_id_v1(email_key, email) AS limit_id FROM users WHERE user_id = ANY($1::uuid []);

-- name: accepted
-- Reads what the 202s of these orders said.
SELECT order_id, product_id, product_name, quantity, unit_price_minor, currency
FROM orders
WHERE order_id = ANY($1::uuid []);
