-- Opens a try of the order's pending refund, to be committed before the provider is called; none: nothing is to be done.
-- Each try uses the refund's own key. From now on the call may have been made (`sent`): what is given is whether one of
-- an earlier try may have been.
CREATE FUNCTION begin_refund_v1(_order_id uuid, _due interval)
RETURNS TABLE (
    number integer, attempt integer, sent boolean, refund_key text, charge_reference text, amount_minor bigint,
    currency text
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM orders AS o WHERE o.order_id = _order_id FOR NO KEY UPDATE;
    UPDATE orders AS o SET due_at = clock_timestamp() + interval '10 minutes'
    WHERE o.order_id = _order_id AND o.status = 'refund_pending';
    RETURN QUERY
    WITH pending AS (
        SELECT r.number, r.sent FROM refunds AS r WHERE r.order_id = _order_id AND r.state = 'pending'
    )
    UPDATE refunds AS r
    SET attempt = r.attempt + 1, sent = true, due_at = clock_timestamp() + _due
    FROM pending AS p
    WHERE r.order_id = _order_id AND r.number = p.number
    RETURNING
        r.number, r.attempt, p.sent, r.refund_key,
        (
            SELECT a.reference FROM payment_attempts AS a
            WHERE a.order_id = _order_id AND a.outcome = 'captured'
        ),
        r.amount_minor, r.currency;
END;
$$;
