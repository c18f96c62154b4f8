-- name: all_products
-- Reads every product, or those of $1, with the time by this server's clock.
SELECT
    p.product_id, p.name, p.price_minor, p.currency, p.allotment, coalesce(o.unmade, 0) AS unmade, p.payment_mode,
    p.payment_window_s, p.limit_per_buyer, p.limit_per, p.cooldown_s, p.refundable_by_buyer, p.starts_at, p.ends_at,
    p.paused, p.archived_at, p.moved_to, p.epoch, p.version + (SELECT t.base FROM timeline AS t WHERE t.one) AS version,
    p.created_at, p.updated_at, clock_timestamp() AS now
FROM products AS p
LEFT JOIN unit_pools AS o ON p.product_id = o.product_id
WHERE $1::integer [] IS NULL OR p.product_id = ANY($1)
ORDER BY p.product_id;

-- name: stocks
-- Reads the live stock of every product, or of those of $1.
SELECT product_id, free, version + (SELECT t.base FROM timeline AS t WHERE t.one) AS version
FROM product_live
WHERE $1::integer [] IS NULL OR product_id = ANY($1);

-- name: claimed_units
-- Reads the live stock of products, with the units that orders hold.
SELECT
    p.product_id, l.free, l.version + (SELECT t.base FROM timeline AS t WHERE t.one) AS version,
    p.allotment - l.free AS claimed
FROM products AS p
INNER JOIN product_live AS l ON p.product_id = l.product_id
WHERE p.product_id = ANY($1::integer []);

-- name: create_product
-- Creates a product; gives its id.
SELECT create_product_v6($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: lock_product
-- Takes the product's lock exclusively, until the end of the transaction: no accept or release is half way.
SELECT pg_advisory_xact_lock(7000, $1);

-- name: change_product
-- Writes the fields that an administrator may change.
UPDATE products
SET
    name = $2, limit_per_buyer = $3, starts_at = $4, ends_at = $5, paused = $6, payment_window_s = $7,
    limit_per = $8, cooldown_s = $9, price_minor = $10, updated_at = clock_timestamp()
WHERE product_id = $1
RETURNING pg_notify('flashsale_products', product_id::text);

-- name: changeable_fields
-- Reads the fields that an administrator may change, whether the product was changed since: its instant is none of $2
-- (NULL: any is right), and whether it is on sale.
SELECT
    coalesce(updated_at <> ALL($2::timestamptz []), false) AS stale,
    NOT paused
    AND coalesce(starts_at <= clock_timestamp(), true)
    AND coalesce(ends_at > clock_timestamp(), true) AS on_sale,
    name, limit_per_buyer, starts_at, ends_at, paused, payment_window_s, limit_per, cooldown_s, price_minor
FROM products
WHERE product_id = $1;

-- name: close_sale
-- Ends a sale now.
SELECT close_sale_v1($1);

-- name: archive_product
-- Archives a product of which nothing is open.
SELECT archive_product_v1($1);

-- name: product_page
-- Lists products that are archived ($1), or those that are not, the newest first, from before a product ($2; NULL: all).
SELECT product_id
FROM products
WHERE (archived_at IS NOT NULL) = $1 AND ($2::integer IS NULL OR product_id < $2)
ORDER BY product_id DESC
LIMIT $3;

-- name: places
-- Reads where the files are that have the orders of products, of those whose orders left the tables.
SELECT product_id, place FROM sale_archives WHERE product_id = ANY($1::integer []);

-- name: recount_limits
-- Writes what the product's limit counts to the buyers that it has, after that was changed.
UPDATE buyer_units AS b
SET limit_id = CASE WHEN p.limit_per = 'email_root' THEN limit_id_v1(u.email_key, u.email) END
FROM products AS p, users AS u
WHERE b.product_id = $1 AND p.product_id = $1 AND b.user_id = u.user_id;

-- name: set_allotment
-- Sets how many units exist.
SELECT result, claimed FROM set_allotment_v2($1, $2);

-- name: change_allotment
-- Adds to how many units exist, up to $3.
SELECT result, claimed FROM change_allotment_v1($1, $2, $3);

-- name: open_pools
-- Lists products whose rows of units are too many, or of which fewer than $1 are left behind the last claim and more
-- can be made and are for sale: those with the fewest left first.
SELECT o.product_id
FROM unit_pools AS o
INNER JOIN products AS p ON o.product_id = p.product_id AND (o.unmade < 0 OR p.archived_at IS NULL)
INNER JOIN product_live AS l ON o.product_id = l.product_id
CROSS JOIN LATERAL (
    SELECT coalesce(max(u.unit_no), 0) - l.claim_hand AS ahead FROM units AS u WHERE u.product_id = o.product_id
) AS made
WHERE o.unmade < 0 OR (o.unmade > 0 AND made.ahead < $1)
ORDER BY sign(o.unmade) DESC, made.ahead
LIMIT $2;

-- name: tend_units
-- Makes rows of units that have none, or deletes those that are too many.
SELECT tend_units_v1($1, $2);

-- name: waiting_orders
-- Counts the orders that wait for a worker, per product. Each of them is due some time: no look at the final ones.
SELECT product_id, count(*) AS waiting
FROM orders
WHERE due_at IS NOT NULL AND (status IN ('queued', 'processing') OR (status = 'awaiting_payment' AND (
    payment_mode = 'automatic' OR pay_requested_at IS NOT NULL
)))
GROUP BY product_id;
