-- Gives proposals up: afterwards no accept can make an order of a void one. Waits for inserts in flight. Gives each id
-- with what it is: `order` or `void`. _order_ids is sorted. A void row that is deleted meanwhile is so old that no
-- accept takes its id: void.
CREATE FUNCTION void_requests_v2(_order_ids uuid [])
RETURNS TABLE (order_id uuid, kind text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO requests (order_id, kind)
    SELECT i, 'void' FROM unnest(_order_ids) AS i
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT i.order_id, coalesce(r.kind, 'void')
    FROM unnest(_order_ids) AS i (order_id)
    LEFT JOIN requests AS r ON i.order_id = r.order_id;
END;
$$;
