-- Tells the live hubs which orders changed: [[order_id, status, version], ...], at most 80 in one payload
-- (each is under 90 bytes; a payload must stay under 8,000).
CREATE FUNCTION notify_orders_v1(_order_ids uuid [])
RETURNS void
LANGUAGE sql
AS $$
    SELECT pg_notify('flashsale_orders', chunk.payload)
    FROM (
        SELECT json_agg(json_build_array(o.order_id, o.status, o.version))::text AS payload
        FROM unnest(_order_ids) WITH ORDINALITY AS i (order_id, place)
        INNER JOIN orders AS o ON i.order_id = o.order_id
        GROUP BY (i.place - 1) / 80
    ) AS chunk
$$;
