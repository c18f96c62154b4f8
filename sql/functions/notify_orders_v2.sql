-- Tells the live hubs which orders changed: [[order_id, status, version], ...].
CREATE FUNCTION notify_orders_v2(_order_ids uuid [])
RETURNS void
LANGUAGE sql
AS $$
    SELECT notify_rows_v1(
        'flashsale_orders',
        array_agg(json_build_array(o.order_id, o.status, o.version)::text ORDER BY i.place)
    )
    FROM unnest(_order_ids) WITH ORDINALITY AS i (order_id, place)
    INNER JOIN orders AS o ON i.order_id = o.order_id
$$;
