-- Trigger of payment_intents: writes, for the targets that want it, that money which did not pay its order was given back:
-- it came after the order's end, or in addition to another payment. back_minor: all of such money of the order.
CREATE FUNCTION note_late_refund_v2()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO outbox (target_id, event, order_id, order_version, back_minor, product_id, facts)
    SELECT
        t.target_id, 'order.refunded', o.order_id, o.version, b.minor, o.product_id,
        jsonb_build_object(
            'order_id', o.order_id, 'user_id', o.user_id, 'product_id', o.product_id, 'product_name', o.product_name,
            'quantity', o.quantity, 'unit_price_minor', o.unit_price_minor, 'currency', o.currency,
            'status', o.status, 'order_version', o.version, 'created_at', o.created_at,
            'back_minor', b.minor, 'refund_minor', new.amount_minor, 'refunded_minor', b.minor, 'unused', true
        )
    FROM orders AS o
    CROSS JOIN LATERAL (
        SELECT sum(i.amount_minor)::bigint AS minor
        FROM payment_intents AS i
        WHERE i.order_id = o.order_id AND i.state = 'refunded'
    ) AS b
    INNER JOIN outbox_targets AS t ON 'order.refunded' = ANY(t.events)
    WHERE o.order_id = new.order_id
    ON CONFLICT (order_id, order_version, back_minor, failed, target_id) WHERE order_id IS NOT NULL DO NOTHING;
    RETURN NULL;
END;
$$;
