-- name: get_many
-- Reads orders by id.
SELECT
    order_id, user_id, product_id, product_name, quantity, unit_price_minor, currency, status,
    version + (SELECT t.base FROM timeline AS t WHERE t.one) AS version,
    changes + (SELECT t.base FROM timeline AS t WHERE t.one) AS changes,
    CASE
        WHEN status = 'awaiting_payment' AND payment_mode = 'by_buyer' AND pay_requested_at IS NULL THEN due_at
    END AS pay_by,
    pay_requested_at IS NOT NULL AS payment_requested, refunded_minor, created_at, updated_at
FROM orders
WHERE order_id = ANY($1::uuid []);

-- name: archived_many
-- Reads orders by id of which most is in files only.
SELECT
    order_id, user_id, product_id, product_name, quantity, unit_price_minor, currency, status,
    version + (SELECT t.base FROM timeline AS t WHERE t.one) AS version,
    changes + (SELECT t.base FROM timeline AS t WHERE t.one) AS changes, NULL::timestamptz AS pay_by,
    false AS payment_requested, refunded_minor, created_at, updated_at
FROM archived_orders
WHERE order_id = ANY($1::uuid []);

-- name: process
-- Moves queued orders to awaiting_payment and defers their payment jobs.
SELECT order_id, status FROM process_orders_v2($1, $2);

-- name: origins
-- Reads the HTTP requests that made orders: the id, and after a space the span.
SELECT order_id, request_id FROM requests WHERE order_id = ANY($1::uuid []) AND request_id IS NOT NULL;

-- name: end_orders
-- Ends orders before any payment; gives those that ended.
SELECT order_id FROM end_orders_v2($1, $2) AS order_id;

-- name: request_payment
-- Defers the payment of an order that waits for its buyer.
SELECT request_payment_v1($1, $2);

-- name: sweep
-- Wakes the due ones of orders; gives the products whose locks are taken.
SELECT expired, deferred, busy FROM sweep_orders_v2($1, $2, $3);

-- name: due
-- Reads orders that are due, the longest due first, without those that are postponed (whose due_at may be stuck).
SELECT o.order_id, o.product_id
FROM orders AS o
WHERE o.due_at <= now()
    AND NOT EXISTS (SELECT 1 FROM postponed_orders AS p WHERE p.order_id = o.order_id AND p.until > now())
ORDER BY o.due_at
LIMIT $1;

-- name: postpone
-- Puts an order off that was refused; gives how often it was.
SELECT postpone_order_v1($1, $2, $3, $4, $5) AS times;

-- name: forget_postponed
-- Forgets postponed orders that have moved since.
DELETE FROM postponed_orders AS p
WHERE NOT EXISTS (SELECT 1 FROM orders AS o WHERE o.order_id = p.order_id AND o.version = p.version);

-- name: count_postponed
-- Counts the postponed orders.
SELECT count(*) AS postponed FROM postponed_orders;

-- name: of_buyer
-- Lists the orders of an account, newest first (ids rise with time), from before an id; also those of which most is in
-- files only.
SELECT
    found.order_id, found.user_id, found.product_id, found.product_name, found.quantity, found.unit_price_minor,
    found.currency, found.status, found.version + (SELECT t.base FROM timeline AS t WHERE t.one) AS version,
    found.changes + (SELECT t.base FROM timeline AS t WHERE t.one) AS changes,
    found.pay_by, found.payment_requested, found.refunded_minor, found.created_at, found.updated_at
FROM (
    (
        SELECT
            o.order_id, o.user_id, o.product_id, o.product_name, o.quantity, o.unit_price_minor, o.currency, o.status,
            o.version, o.changes,
            CASE
                WHEN o.status = 'awaiting_payment' AND o.payment_mode = 'by_buyer' AND o.pay_requested_at IS NULL
                    THEN o.due_at
            END AS pay_by,
            o.pay_requested_at IS NOT NULL AS payment_requested, o.refunded_minor, o.created_at, o.updated_at
        FROM orders AS o
        WHERE o.user_id = $1 AND o.order_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        ORDER BY o.order_id DESC
        LIMIT $3
    )
    UNION ALL
    (
        SELECT
            a.order_id, a.user_id, a.product_id, a.product_name, a.quantity, a.unit_price_minor, a.currency, a.status,
            a.version, a.changes, NULL, false, a.refunded_minor, a.created_at, a.updated_at
        FROM archived_orders AS a
        WHERE a.user_id = $1 AND a.order_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        ORDER BY a.order_id DESC
        LIMIT $3
    )
) AS found
ORDER BY found.order_id DESC
LIMIT $3;
