-- name: leave
-- Lets the free units of a product leave for another cell, once.
SELECT leave_cell_v1($1, $2, $3, $4);

-- name: moving
-- Reads a product that moves, or may move: what left, or would leave, and under which terms.
SELECT
    d.move_id, d.to_cell, coalesce(d.units, l.free) AS units, coalesce(d.paused, p.paused) AS paused, p.moved_to, p.name,
    p.price_minor, p.currency, p.payment_mode, p.payment_window_s, p.limit_per_buyer, p.limit_per, p.cooldown_s,
    p.refundable_by_buyer, p.starts_at, p.ends_at
FROM products AS p
INNER JOIN product_live AS l ON p.product_id = l.product_id
LEFT JOIN product_departures AS d ON p.product_id = d.product_id
WHERE p.product_id = $1;

-- name: enter
-- Creates the product that another cell's product becomes, once; gives its id.
SELECT enter_cell_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: tell
-- Writes what a product became.
UPDATE products AS p
SET moved_to = $2
FROM product_departures AS d
WHERE p.product_id = $1 AND p.product_id = d.product_id AND d.move_id = $3;

-- name: arrivals
-- Lists what arrived from other cells.
SELECT product_id, move_id, from_product_id, units FROM product_arrivals ORDER BY product_id;

-- name: departures
-- Lists what left for other cells.
SELECT d.product_id, d.move_id, d.to_cell, d.units, p.moved_to
FROM product_departures AS d
LEFT JOIN products AS p ON d.product_id = p.product_id
ORDER BY d.product_id;
