-- name: get_many
-- Reads orders by id.
SELECT
    order_id, user_id, product_id, product_name, quantity, unit_price_minor, currency, status, version,
    pay_requested_at IS NOT NULL AS payment_requested, created_at, updated_at
FROM orders
WHERE order_id = ANY($1::uuid []);

-- name: process
-- Moves queued orders to awaiting_payment and defers their payment jobs.
SELECT order_id, status FROM process_orders_v1($1, $2);

-- name: end_orders
-- Ends orders before any payment; gives those that ended.
SELECT order_id FROM end_orders_v1($1, $2) AS order_id;

-- name: request_payment
-- Defers the payment of an order that waits for its buyer.
SELECT request_payment_v1($1, $2);

-- name: sweep
-- Wakes due orders.
SELECT expired, deferred, looked_at FROM sweep_orders_v1($1, $2);

-- name: admin_list
-- Lists orders, newest first (ids rise with time), of one product, in one status, from before an id.
SELECT
    order_id, user_id, product_id, product_name, quantity, unit_price_minor, currency, status, version,
    pay_requested_at IS NOT NULL AS payment_requested, created_at, updated_at
FROM orders
WHERE
    ($1::integer IS NULL OR product_id = $1)
    AND ($2::text IS NULL OR status = $2)
    AND ($3::uuid IS NULL OR order_id < $3)
ORDER BY order_id DESC
LIMIT $4;
