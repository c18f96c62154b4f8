-- name: settled_orders
-- Reads orders in the order of their ids, from after $1, with what of their price is back, and may be, and when the last of
-- it moved; also those of which most is in files only. Order ids begin with their time.
SELECT
    o.order_id, o.status, coalesce(o.unit_price_minor * o.quantity, 0) AS price_minor, o.currency,
    coalesce(o.refunded_minor, 0) AS refunded_minor,
    coalesce(sum(r.amount_minor) FILTER (WHERE r.state = 'pending'), 0)::bigint AS refunding_minor,
    coalesce(greatest(o.updated_at, max(r.created_at), max(r.finished_at)), o.created_at, clock_timestamp()) AS moved_at
FROM (
    SELECT b.*
    FROM (
        (
            SELECT
                n.order_id, n.status, n.unit_price_minor, n.quantity, n.currency, n.refunded_minor, n.updated_at, n.created_at
            FROM orders AS n WHERE n.order_id > $1 ORDER BY n.order_id LIMIT $2
        )
        UNION ALL
        (
            SELECT
                a.order_id, a.status, a.unit_price_minor, a.quantity, a.currency, a.refunded_minor, a.updated_at, a.created_at
            FROM archived_orders AS a WHERE a.order_id > $1 ORDER BY a.order_id LIMIT $2
        )
    ) AS b
    ORDER BY b.order_id
    LIMIT $2
) AS o
LEFT JOIN refunds AS r ON o.order_id = r.order_id
GROUP BY o.order_id, o.status, o.unit_price_minor, o.quantity, o.currency, o.refunded_minor, o.updated_at, o.created_at
ORDER BY o.order_id;

-- name: keep_fees
-- Writes what the provider kept ($2 minor units, $3 currency) of the payments of orders ($1), of those that there are.
INSERT INTO payment_fees AS f (order_id, fee_minor, currency)
SELECT i.order_id, i.fee_minor, i.currency
FROM unnest($1::uuid [], $2::bigint [], $3::text []) AS i (order_id, fee_minor, currency)
WHERE EXISTS (SELECT 1 FROM orders AS o WHERE o.order_id = i.order_id)
ON CONFLICT (order_id) DO UPDATE
SET fee_minor = excluded.fee_minor, currency = excluded.currency, noted_at = clock_timestamp()
WHERE (f.fee_minor, f.currency) <> (excluded.fee_minor, excluded.currency);
