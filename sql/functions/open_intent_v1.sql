-- Writes what a provider answered when an intent was opened. One that was given up meanwhile stays lost, now with its
-- reference. Waiting for this answer used up nothing of the buyer's time. Locks the order, then the intent. Gives the
-- intent as it is now; nothing if another reference was found for it first.
CREATE FUNCTION open_intent_v1(
    _order_id uuid,
    _number integer,
    _reference text,
    _amount_minor bigint,
    _currency text,
    _client_secret text,
    _page_url text,
    _due interval
)
RETURNS TABLE (number integer, state text, reference text, client_secret text, page_url text, problem text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _now constant timestamptz := clock_timestamp();
BEGIN
    PERFORM FROM orders AS o WHERE o.order_id = _order_id FOR NO KEY UPDATE;
    UPDATE orders AS o
    SET due_at = greatest(o.due_at, _now + i.window_left)
    FROM payment_intents AS i
    WHERE o.order_id = _order_id AND i.order_id = _order_id AND i.number = _number AND i.state = 'opening'
        AND o.status = 'awaiting_payment' AND o.pay_requested_at IS NULL AND o.due_at > _now;
    RETURN QUERY
    UPDATE payment_intents AS i
    SET
        reference = _reference,
        state = CASE WHEN i.state = 'opening' THEN 'open' ELSE i.state END,
        client_secret = _client_secret,
        page_url = _page_url,
        problem = CASE WHEN (i.amount_minor, i.currency) <> (_amount_minor, _currency) THEN 'amount' ELSE i.problem END,
        looks = 0,
        -- It is looked at once more before the buyer's time ends, because a webhook may be lost.
        due_at = least(
            _now + _due,
            CASE
                WHEN o.status = 'awaiting_payment' AND o.due_at - interval '5 s' > _now
                    THEN o.due_at - interval '5 s'
            END
        ),
        updated_at = clock_timestamp()
    FROM orders AS o
    WHERE i.order_id = _order_id AND i.number = _number AND o.order_id = _order_id
        AND i.due_at IS NOT NULL AND (i.reference IS NULL OR i.reference = _reference)
    RETURNING i.number, i.state, i.reference, i.client_secret, i.page_url, i.problem;
END;
$$;
