-- Gives proposals up: afterwards each id is a row of requests, and no accept can make an order of a void one.
-- Waits for inserts in flight. Gives each id with what it is: `order` or `void`. _order_ids is sorted.
CREATE FUNCTION void_requests_v1(_order_ids uuid [])
RETURNS TABLE (order_id uuid, kind text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO requests (order_id, kind)
    SELECT i, 'void' FROM unnest(_order_ids) AS i
    ON CONFLICT DO NOTHING;
    RETURN QUERY SELECT r.order_id, r.kind FROM requests AS r WHERE r.order_id = ANY(_order_ids);
END;
$$;
