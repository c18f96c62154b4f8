-- Merges what the provider says of a refund of an order: its own reply, a webhook's look-up and a list say the same in
-- any order and any number of times. A refund is known by our key or by the provider's reference. `succeeded` stands for
-- ever; `failed` counts only while the refund is pending, and is noted of one that succeeded: the buyer's bank sent the
-- money back to the shop, which then owes it. One that is not known was made at the provider, not here, and
-- is written when it succeeded. _retry_after: when a refund that is still on its way is looked at again; NULL: as it was.
-- Gives `noted`, `known` (nothing new), `bounced` (the first word of a failure after the success), or why nothing was changed: `unknown` (no such order), `unpaid` (the order's
-- status has nothing to refund), `differs` (another amount or currency than the refund that it should be).
CREATE FUNCTION note_refund_v2(
    _order_id uuid,
    _key text,
    _reference text,
    _state text,
    _amount_minor bigint,
    _currency text,
    _problem text,
    _retry_after interval
)
RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    _now constant timestamptz := clock_timestamp();
    _status text;
    _number integer;
    _known text;
    _same boolean;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7000, o.product_id)
    FROM orders AS o
    WHERE o.order_id = _order_id
        AND EXISTS (SELECT 1 FROM refunds AS r WHERE r.order_id = _order_id AND r.restock AND r.state <> 'succeeded');
    SELECT o.status INTO _status FROM orders AS o WHERE o.order_id = _order_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown';
    ELSIF _status NOT IN ('confirmed', 'refund_pending', 'refunded') THEN
        RETURN 'unpaid';
    END IF;
    SELECT r.number, r.state, (r.amount_minor, r.currency) = (_amount_minor, _currency)
    INTO _number, _known, _same
    FROM refunds AS r
    WHERE r.order_id = _order_id AND (r.refund_key = _key OR r.reference = _reference)
    ORDER BY (r.refund_key = _key) IS TRUE DESC
    LIMIT 1;
    IF _number IS NULL AND _state <> 'succeeded' THEN
        RETURN 'known';
    ELSIF _number IS NULL THEN
        INSERT INTO refunds (
            order_id, number, amount_minor, currency, restock, reason, state, reference, created_at, finished_at
        )
        SELECT
            _order_id, coalesce(max(r.number), 0) + 1, _amount_minor, _currency, false, 'made at the provider',
            'succeeded', _reference, _now, _now
        FROM refunds AS r WHERE r.order_id = _order_id;
    ELSIF NOT _same THEN
        RETURN 'differs';
    ELSIF _known = 'succeeded' AND _state = 'failed' THEN
        UPDATE refunds SET bounced_at = clock_timestamp(), problem = _problem
        WHERE order_id = _order_id AND number = _number AND bounced_at IS NULL;
        RETURN CASE WHEN FOUND THEN 'bounced' ELSE 'known' END;
    ELSIF _known = 'succeeded' OR _known = _state AND _known <> 'pending' OR _known = 'failed' AND _state = 'pending' THEN
        RETURN 'known';
    ELSE
        UPDATE refunds
        SET
            state = _state,
            reference = _reference,
            problem = _problem,
            finished_at = CASE WHEN _state <> 'pending' THEN clock_timestamp() END,
            due_at = CASE WHEN _state = 'pending' THEN coalesce(clock_timestamp() + _retry_after, due_at) END,
            job_id = CASE WHEN _state = 'pending' THEN job_id END
        WHERE order_id = _order_id AND number = _number;
    END IF;
    PERFORM settle_refunds_v1(_order_id);
    RETURN 'noted';
END;
$$;
