-- name: live
-- Reads epoch and live stock of every product.
SELECT p.product_id, p.epoch, l.free, l.version
FROM products AS p
INNER JOIN product_live AS l ON p.product_id = l.product_id;

-- name: begin_load
-- Raises the epoch and reads the free count, if the epoch is still the one seen.
SELECT epoch, free FROM begin_gate_load_v2($1, $2);

-- name: epoch_and_free
-- Reads epoch and live stock of one product.
SELECT p.epoch, l.free, l.version + (SELECT t.base FROM timeline AS t WHERE t.one) AS version
FROM products AS p
INNER JOIN product_live AS l ON p.product_id = l.product_id
WHERE p.product_id = $1;

-- name: owed
-- Counts the free units of products that the gate must know of: those whose return is on its way are not among them.
SELECT
    l.product_id,
    l.free - coalesce(
        (SELECT sum(r.quantity) FROM gate_returns AS r WHERE r.product_id = l.product_id), 0
    )::integer AS units
FROM product_live AS l
WHERE l.product_id = ANY($1::integer []);

-- name: returns
-- Reads returns that the gate has not been told of: at most $2 of each product, none of the products $3, and each
-- product's first before any product's second. Finds the products one after the other by their index. user_id: as the gate
-- knows the buyer. cools_ms: how long it counts the units for the buyer still.
WITH RECURSIVE waiting AS (
    (SELECT min(r.product_id) AS product_id FROM gate_returns AS r)
    UNION ALL
    SELECT (SELECT min(r.product_id) FROM gate_returns AS r WHERE r.product_id > w.product_id)
    FROM waiting AS w
    WHERE w.product_id IS NOT NULL
)
SELECT f.order_id, f.product_id, f.user_id, f.quantity, f.epoch, f.cools_ms
FROM waiting AS w
CROSS JOIN LATERAL (
    SELECT
        r.order_id, r.product_id, coalesce(b.limit_id, r.user_id) AS user_id, r.quantity, r.epoch,
        greatest(coalesce(ceil(extract(EPOCH FROM r.cools_until - clock_timestamp()) * 1000), 0), 0)::integer AS cools_ms,
        row_number() OVER () AS turn
    FROM gate_returns AS r
    LEFT JOIN buyer_units AS b ON r.product_id = b.product_id AND r.user_id = b.user_id
    WHERE r.product_id = w.product_id
    LIMIT $2
) AS f
WHERE w.product_id <> ALL($3::integer [])
ORDER BY f.turn
LIMIT $1;

-- name: forget_returns
-- Forgets returns that the gate has counted.
DELETE FROM gate_returns
WHERE order_id IN (
    SELECT r.order_id FROM gate_returns AS r WHERE r.order_id = ANY($1::uuid []) FOR UPDATE SKIP LOCKED
);
