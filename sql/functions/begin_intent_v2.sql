-- The buyer asks to pay: gives the order's intent, a new one in the state `opening` if it has none that can be paid. Its
-- row is to be committed before the provider is called. Asked again, gives the same one. Nothing, if the order does not
-- wait for its buyer or the buyer's time is over, by this server's clock; but what was asked for in time is given again. Gives
-- also what a page of the provider needs: the product's name and its payment window, when the intent was asked for, and
-- what was left of the buyer's time then.
CREATE FUNCTION begin_intent_v2(_order_id uuid, _provider text, _due interval)
RETURNS TABLE (
    number integer, state text, reference text, client_secret text, page_url text, amount_minor bigint, currency text,
    problem text, product_name text, window_s integer, asked_at timestamptz, window_left interval
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _order orders;
    _newest payment_intents;
BEGIN
    SELECT o.* INTO _order FROM orders AS o
    WHERE o.order_id = _order_id AND o.payment_mode = 'by_buyer'
        AND o.status IN ('awaiting_payment', 'processing_payment', 'payment_unknown')
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT i.* INTO _newest FROM payment_intents AS i WHERE i.order_id = _order_id ORDER BY i.number DESC LIMIT 1;
    IF _order.pay_requested_at IS NULL THEN
        IF _order.due_at <= clock_timestamp() THEN
            RETURN;
        END IF;
        IF _newest.number IS NULL OR _newest.state IN ('lost', 'cancelled') THEN
            INSERT INTO payment_intents AS n (
                order_id, number, provider, amount_minor, currency, window_left, due_at
            )
            VALUES (
                _order_id, coalesce(_newest.number, 0) + 1, _provider, _order.unit_price_minor * _order.quantity,
                _order.currency, _order.due_at - clock_timestamp(), clock_timestamp() + _due
            )
            RETURNING n.* INTO _newest;
        END IF;
    END IF;
    IF _newest.number IS NOT NULL THEN
        RETURN QUERY
        SELECT
            _newest.number, _newest.state, _newest.reference, _newest.client_secret, _newest.page_url,
            _newest.amount_minor, _newest.currency, _newest.problem, _order.product_name,
            (SELECT p.payment_window_s FROM products AS p WHERE p.product_id = _order.product_id),
            _newest.created_at, _newest.window_left;
    END IF;
END;
$$;
