-- Records that an order was paid outside: an operator saw the money (provider `manual`). From then on the order can neither
-- expire nor be cancelled, and its payment job confirms it. The caller's amount must be the order's price. The same record again changes nothing. Gives the result with
-- the order's status and price, and the record that exists, if there is one:
--   recorded   the record exists from now on
--   repeated   the same record exists already
--   unknown    there is no such order
--   other      the order was recorded as paid before, with another reference
--   differs    amount or currency are not the order's
--   elsewhere  another provider holds an intent of the order, which can still be paid
--   state      the order does not wait for its buyer, or the buyer's time is over
--   used       the reference belongs to the payment of another order
-- Locks the order, like expiry and cancellation: one of them moves it, and the others see that.
CREATE FUNCTION record_payment_v1(
    _order_id uuid,
    _reference text,
    _amount_minor bigint,
    _currency text,
    _recorded_by uuid,
    _due interval
)
RETURNS TABLE (
    result text, status text, price_minor bigint, price_currency text, reference text, recorded_by uuid,
    recorded_at timestamptz
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _order orders;
    _entry manual_entries;
    _result text;
BEGIN
    SELECT o.* INTO _order FROM orders AS o WHERE o.order_id = _order_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'unknown', '', 0::bigint, '', NULL::text, NULL::uuid, NULL::timestamptz;
        RETURN;
    END IF;
    SELECT e.* INTO _entry FROM manual_entries AS e WHERE e.order_id = _order_id AND e.number = 0;
    _result := CASE
        WHEN (_amount_minor, _currency) <> (_order.unit_price_minor * _order.quantity, _order.currency) THEN 'differs'
        WHEN _entry.reference = _reference THEN 'repeated'
        WHEN _entry.reference IS NOT NULL THEN 'other'
        WHEN
            _order.status <> 'awaiting_payment' OR _order.payment_mode <> 'by_buyer'
            OR _order.pay_requested_at IS NOT NULL OR _order.due_at <= clock_timestamp()
            THEN 'state'
        WHEN EXISTS (
            SELECT 1 FROM payment_intents AS i WHERE i.order_id = _order_id AND i.due_at IS NOT NULL
        ) THEN 'elsewhere'
    END;
    IF _result IS NULL THEN
        INSERT INTO manual_entries AS e (order_id, number, reference, amount_minor, currency, recorded_by)
        VALUES (_order_id, 0, _reference, _amount_minor, _currency, _recorded_by)
        ON CONFLICT (reference) WHERE number = 0 DO NOTHING
        RETURNING e.* INTO _entry;
        IF NOT FOUND THEN
            _result := 'used';
        ELSE
            UPDATE orders AS o
            SET
                pay_requested_at = clock_timestamp(), due_at = clock_timestamp() + _due,
                job_id = (defer_payment_jobs_v1(ARRAY[_order_id]))[1]
            WHERE o.order_id = _order_id;
            _result := 'recorded';
        END IF;
    END IF;
    RETURN QUERY
    SELECT
        _result, o.status, o.unit_price_minor * o.quantity, o.currency, _entry.reference, _entry.recorded_by,
        _entry.recorded_at
    FROM orders AS o WHERE o.order_id = _order_id;
END;
$$;
