-- name: accept
-- Makes orders of a batch of proposals in one transaction; see the function for the arrays.
SELECT outcome, order_id, product_id, product_name, quantity, unit_price_minor, currency
FROM accept_orders_v1($1, $2, $3, $4, $5, $6, $7, $8);

-- name: void
-- Gives proposals up; gives each id with `order` or `void`.
SELECT order_id, kind FROM void_requests_v1($1);

-- name: replays
-- Looks up the orders that stand under ($1 user, $2 key), with their fingerprints.
SELECT
    i.place, r.fingerprint, o.order_id, o.product_id, o.product_name, o.quantity, o.unit_price_minor, o.currency
FROM unnest($1::uuid [], $2::text []) WITH ORDINALITY AS i (user_id, key, place)
INNER JOIN requests AS r ON r.kind = 'order' AND i.user_id = r.user_id AND i.key = r.key
INNER JOIN orders AS o ON r.order_id = o.order_id;

-- name: accepted
-- Reads what the 202s of these orders said.
SELECT order_id, product_id, product_name, quantity, unit_price_minor, currency
FROM orders
WHERE order_id = ANY($1::uuid []);
