-- Trigger of orders: writes what the targets that want an event will be told, in the transaction that moves the order or
-- writes what of its money was given back. No foreign key to the targets: each insert would lock the target's row.
-- refund_minor: what was given back now; refunded_minor: in all. An order whose refund failed is confirmed again, which
-- is told only once.
CREATE FUNCTION note_order_event_v2()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO outbox (target_id, event, order_id, order_version, back_minor, product_id, facts)
    SELECT
        t.target_id, e.event, new.order_id, new.version, e.back_minor, new.product_id,
        jsonb_build_object(
            'order_id', new.order_id, 'user_id', new.user_id, 'product_id', new.product_id,
            'product_name', new.product_name, 'quantity', new.quantity, 'unit_price_minor', new.unit_price_minor,
            'currency', new.currency, 'status', new.status, 'order_version', new.version, 'created_at', new.created_at
        )
        || CASE
            WHEN e.event = 'order.refunded' THEN jsonb_build_object(
                'back_minor', e.back_minor, 'refund_minor', new.refunded_minor - old.refunded_minor,
                'refunded_minor', new.refunded_minor
            )
            ELSE '{}'
        END
    FROM outbox_targets AS t
    INNER JOIN (
        SELECT 'order.' || new.status AS event, 0::bigint AS back_minor
        WHERE old.status <> new.status
            AND new.status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'refunded')
            AND (old.status, new.status) <> ('refund_pending', 'confirmed')
        UNION ALL
        SELECT 'order.refunded', new.refunded_minor
        WHERE old.refunded_minor < new.refunded_minor AND new.status <> 'refunded'
    ) AS e ON e.event = ANY(t.events);
    RETURN NULL;
END;
$$;
