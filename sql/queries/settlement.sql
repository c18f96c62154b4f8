-- name: settled_orders
-- Reads orders in the order of their ids, from after $1, with what of their price is back, and may be, and when the last of
-- it moved. Order ids begin with their time.
SELECT
    o.order_id, o.status, coalesce(o.unit_price_minor * o.quantity, 0) AS price_minor, o.currency,
    coalesce(o.refunded_minor, 0) AS refunded_minor,
    coalesce(sum(r.amount_minor) FILTER (WHERE r.state = 'pending'), 0)::bigint AS refunding_minor,
    coalesce(greatest(o.updated_at, max(r.created_at), max(r.finished_at)), o.created_at, clock_timestamp()) AS moved_at
FROM (
    SELECT n.* FROM orders AS n WHERE n.order_id > $1 ORDER BY n.order_id LIMIT $2
) AS o
LEFT JOIN refunds AS r ON o.order_id = r.order_id
GROUP BY o.order_id, o.status, o.unit_price_minor, o.quantity, o.currency, o.refunded_minor, o.updated_at, o.created_at
ORDER BY o.order_id;
