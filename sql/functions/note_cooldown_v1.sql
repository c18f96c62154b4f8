-- Trigger of gate_returns, which get a row for each order that releases its units, in the transaction that ends the order.
-- If the order ended unpaid and its product has a cool-down, the units are free at once, and count for the buyer until the
-- cool-down has passed: in buyer_units, whose row the caller holds, and at the gate. Cool-downs of a buyer that overlap
-- end together. What `failed` ended the buyer did not cause, and what a refund gave back was paid.
CREATE FUNCTION note_cooldown_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    _now constant timestamptz := clock_timestamp();
BEGIN
    SELECT _now + p.cooldown_s * interval '1 second' INTO new.cools_until
    FROM orders AS o
    INNER JOIN products AS p ON o.product_id = p.product_id
    WHERE o.order_id = new.order_id AND o.status IN ('expired', 'cancelled', 'payment_failed') AND p.cooldown_s > 0;
    IF new.cools_until IS NOT NULL THEN
        UPDATE buyer_units AS b
        SET
            cooling = CASE WHEN b.cools_until > _now THEN b.cooling ELSE 0 END + new.quantity,
            cools_until = greatest(b.cools_until, new.cools_until)
        WHERE b.product_id = new.product_id AND b.user_id = new.user_id;
    END IF;
    RETURN new;
END;
$$;
