-- Trigger of product_live: writes that a product sold out for the targets that want it. Of a product that sells out several
-- times before a target was told, the target is told once.
CREATE FUNCTION note_sold_out_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO outbox (target_id, event, product_id, facts)
    SELECT
        t.target_id, 'stock.sold_out', new.product_id,
        jsonb_build_object('product_id', p.product_id, 'product_name', p.name, 'stock_version', new.version)
    FROM outbox_targets AS t
    INNER JOIN products AS p ON p.product_id = new.product_id
    WHERE 'stock.sold_out' = ANY(t.events)
    ON CONFLICT (product_id, target_id) WHERE due_at IS NOT NULL AND order_id IS NULL DO NOTHING;
    RETURN NULL;
END;
$$;
