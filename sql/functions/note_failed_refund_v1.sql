-- Trigger of refunds and payment_intents, at COMMIT: writes, for the targets that want it, that money which should have
-- gone back did not. Each refund, and each intent whose money is not the order's, is told of once. failed: which of them.
CREATE FUNCTION note_failed_refund_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    _failed constant text := CASE tg_table_name WHEN 'refunds' THEN 'refund:' ELSE 'intent:' END || new.number;
BEGIN
    INSERT INTO outbox (target_id, event, order_id, order_version, failed, product_id, facts)
    SELECT
        t.target_id, 'order.refund_failed', o.order_id, o.version, _failed, o.product_id,
        jsonb_build_object(
            'order_id', o.order_id, 'user_id', o.user_id, 'product_id', o.product_id, 'product_name', o.product_name,
            'quantity', o.quantity, 'unit_price_minor', o.unit_price_minor, 'currency', o.currency,
            'status', o.status, 'order_version', o.version, 'created_at', o.created_at,
            'failed', _failed, 'refund_minor', new.amount_minor, 'refunded_minor', o.refunded_minor,
            'unused', tg_table_name <> 'refunds'
        )
    FROM orders AS o
    INNER JOIN outbox_targets AS t ON 'order.refund_failed' = ANY(t.events)
    WHERE o.order_id = new.order_id
        AND NOT EXISTS (
            SELECT 1 FROM outbox AS m
            WHERE m.order_id = new.order_id AND m.target_id = t.target_id AND m.failed = _failed
        )
    ON CONFLICT (order_id, order_version, back_minor, failed, target_id) WHERE order_id IS NOT NULL DO NOTHING;
    RETURN NULL;
END;
$$;
