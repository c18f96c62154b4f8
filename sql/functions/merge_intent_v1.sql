-- Writes what a provider says of an intent, and moves the order if that decides something. Right for any order, repetition
-- and loss of what is said: the later of two states stays, by intent_rank_v1, and the order moves once.
--
-- The row is found by its reference; else it is the first one without one, whose opening had no clear answer; else it is
-- made. _due: when an intent that may still be paid is looked at again; 5 s before the end of the buyer's time it is
-- looked at once more, because a webhook may be lost. Gives the row's number and state, the state before, and the effect:
--   requested  the money is held in time: from now on the order can neither expire nor be cancelled, and a job captures
--   confirmed  the money was captured: the order is paid
--   differs    amount or currency are not those of the order, found now: such money never confirms it
--   unwanted   the order ended without it: a job cancels it, or gives the money back
--   foreign    no order of ours is named
--   none       nothing changed but the row, if there is one
-- Locks the order, then the intent.
CREATE FUNCTION merge_intent_v1(
    _order_id uuid,
    _provider text,
    _reference text,
    _state text,
    _amount_minor bigint,
    _currency text,
    _refunded_minor bigint,
    _client_secret text,
    _page_url text,
    _due interval
)
RETURNS TABLE (number integer, state text, state_before text, effect text, order_status text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _now constant timestamptz := clock_timestamp();
    _order orders;
    _intent payment_intents;
    _before text;
    _effect text := 'none';
    _problem text;
    _attempt integer;
    _paid_by text;
    _ended boolean;
    _said text := _state;
BEGIN
    SELECT o.* INTO _order FROM orders AS o WHERE o.order_id = _order_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT NULL::integer, NULL::text, NULL::text, 'foreign', NULL::text;
        RETURN;
    END IF;
    IF _order.status IN ('confirmed', 'refund_pending', 'refunded') THEN
        SELECT a.reference INTO _paid_by FROM payment_attempts AS a
        WHERE a.order_id = _order_id AND a.outcome = 'captured';
        _ended := _paid_by IS DISTINCT FROM _reference;
    ELSE
        _ended := _order.status IN ('payment_failed', 'expired', 'cancelled', 'failed');
    END IF;
    IF _ended AND _said = 'captured' AND _refunded_minor >= _amount_minor THEN
        _said := 'refunded';
    END IF;
    IF (_amount_minor, _currency) <> (_order.unit_price_minor * _order.quantity, _order.currency) THEN
        _problem := 'amount';
    END IF;

    SELECT i.* INTO _intent FROM payment_intents AS i
    WHERE i.order_id = _order_id AND (
        (i.provider = _provider AND i.reference = _reference)
        OR (i.provider = _provider AND i.reference IS NULL)
    )
    ORDER BY i.reference NULLS LAST, i.number
    LIMIT 1
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        -- Nobody waits for money that an automatic charge holds; only what has to be given back needs a row.
        IF _order.payment_mode = 'by_buyer' OR _ended THEN
            INSERT INTO payment_intents AS n (
                order_id, number, provider, reference, state, amount_minor, currency, window_left, due_at
            )
            SELECT
                _order_id, coalesce(max(p.number), 0) + 1, _provider, _reference, 'open',
                _order.unit_price_minor * _order.quantity, _order.currency, interval '0', _now
            FROM payment_intents AS p WHERE p.order_id = _order_id
            RETURNING n.* INTO _intent;
        END IF;
    END IF;
    _before := _intent.state;

    IF _intent.number IS NOT NULL THEN
        IF _problem IS NOT NULL AND _intent.problem IS NULL THEN
            _effect := 'differs';
        END IF;
        UPDATE payment_intents AS i
        SET
            reference = _reference,
            state = CASE WHEN intent_rank_v1(_said) > intent_rank_v1(i.state) THEN _said ELSE i.state END,
            client_secret = coalesce(_client_secret, i.client_secret),
            page_url = coalesce(_page_url, i.page_url),
            problem = coalesce(i.problem, _problem),
            looks = CASE WHEN intent_rank_v1(_said) > intent_rank_v1(i.state) THEN 0 ELSE i.looks + 1 END,
            due_at = CASE
                WHEN greatest(intent_rank_v1(_said), intent_rank_v1(i.state))
                    IN (intent_rank_v1('cancelled'), intent_rank_v1('refunded'))
                    THEN NULL
                WHEN _paid_by = _reference THEN NULL
                WHEN _ended OR i.state = 'lost' THEN least(i.due_at, _now + _due)
                WHEN
                    _order.status = 'awaiting_payment' AND _order.pay_requested_at IS NULL
                    AND _order.due_at - interval '5 s' > _now
                    THEN least(_now + _due, _order.due_at - interval '5 s')
                ELSE _now + _due
            END,
            updated_at = CASE
                WHEN intent_rank_v1(_said) > intent_rank_v1(i.state) THEN clock_timestamp() ELSE i.updated_at
            END
        WHERE i.order_id = _order_id AND i.number = _intent.number
        RETURNING i.* INTO _intent;
    END IF;

    IF _problem IS NOT NULL THEN
        IF _effect = 'differs' THEN
            -- For a person to see; the order goes on, or expires in its time.
            INSERT INTO postponed_orders AS p (order_id, version, job, problem, until)
            VALUES (_order_id, _order.version, 'payment', 'the provider holds another amount or currency', _now)
            ON CONFLICT (order_id) DO UPDATE
            SET version = excluded.version, job = excluded.job, problem = excluded.problem;
        END IF;
    ELSIF _ended THEN
        IF _intent.state NOT IN ('cancelled', 'refunded') THEN
            _effect := 'unwanted';
        END IF;
    ELSIF _intent.state = 'lost' THEN
        NULL;
    ELSIF coalesce(_intent.state, _said) IN ('authorized', 'captured') AND _order.status = 'awaiting_payment'
        AND _order.payment_mode = 'by_buyer' AND _order.pay_requested_at IS NULL AND _order.due_at > _now
        AND _said <> 'captured' THEN
        UPDATE orders AS o
        SET
            pay_requested_at = clock_timestamp(), due_at = clock_timestamp() + _due,
            job_id = (defer_payment_jobs_v1(ARRAY[_order_id]))[1]
        WHERE o.order_id = _order_id;
        _effect := 'requested';
    ELSIF _said = 'captured' AND (
        _order.status IN ('processing_payment', 'payment_unknown')
        OR (
            _order.status = 'awaiting_payment' AND _order.payment_mode = 'by_buyer'
            AND (_order.pay_requested_at IS NOT NULL OR _order.due_at > _now)
        )
    ) THEN
        UPDATE orders AS o
        SET pay_requested_at = clock_timestamp()
        WHERE o.order_id = _order_id AND o.payment_mode = 'by_buyer' AND o.pay_requested_at IS NULL;
        -- An attempt of its own: that of a worker that still waits for its answer is superseded.
        SELECT b.attempt INTO _attempt FROM begin_payments_v4(ARRAY[_order_id], _due) AS b;
        PERFORM finish_payments_v2(
            ARRAY[_order_id], ARRAY[_attempt], ARRAY['captured'], ARRAY[_reference], ARRAY[interval '0']
        );
        _effect := 'confirmed';
    END IF;
    RETURN QUERY
    SELECT i.number, i.state, _before, _effect, o.status
    FROM orders AS o
    LEFT JOIN payment_intents AS i ON o.order_id = i.order_id AND i.number = _intent.number
    WHERE o.order_id = _order_id;
END;
$$;
