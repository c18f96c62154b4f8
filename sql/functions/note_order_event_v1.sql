-- Trigger of orders: writes what the targets that want this event will be told, in the transaction that moves the order.
-- No foreign key to the targets: each insert would lock the target's row.
CREATE FUNCTION note_order_event_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO outbox (target_id, event, order_id, order_version, product_id, facts)
    SELECT
        t.target_id, 'order.' || new.status, new.order_id, new.version, new.product_id,
        jsonb_build_object(
            'order_id', new.order_id, 'user_id', new.user_id, 'product_id', new.product_id,
            'product_name', new.product_name, 'quantity', new.quantity, 'unit_price_minor', new.unit_price_minor,
            'currency', new.currency, 'status', new.status, 'order_version', new.version, 'created_at', new.created_at
        )
    FROM outbox_targets AS t
    WHERE 'order.' || new.status = ANY(t.events);
    RETURN NULL;
END;
$$;
