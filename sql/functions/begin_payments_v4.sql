-- Opens a payment attempt for each order that may be charged now, to be committed before the gateway is called.
-- An order whose attempt is open already (its worker died, or is slow) gets a new attempt under the same gateway key
-- and the old one is superseded: whatever the old worker brings home later is refused. `tries` counts the earlier
-- attempts that may have reached the gateway: those without an answer, and superseded ones whose call was announced
-- (`sent`). An order that somebody else holds is left out: it is due again. Gives the attempts to make; `reference` is
-- the intent under which the buyer's money is held, `first_begun_at` when the oldest attempt that is kept began.
CREATE FUNCTION begin_payments_v4(_order_ids uuid [], _due interval)
RETURNS TABLE (
    order_id uuid, product_id integer, attempt integer, tries integer, status text, gateway_key text,
    amount_minor bigint, currency text, reference text, first_begun_at timestamptz
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _held uuid[];
    _begun uuid[];
BEGIN
    SELECT
        coalesce(array_agg(h.order_id), '{}'),
        coalesce(array_agg(h.order_id) FILTER (WHERE h.status = 'awaiting_payment'), '{}')
    INTO _held, _begun
    FROM (
        SELECT o.order_id, o.status FROM orders AS o
        WHERE o.order_id = ANY(_order_ids)
            AND (
                o.status IN ('processing_payment', 'payment_unknown')
                OR (
                    o.status = 'awaiting_payment'
                    AND (o.payment_mode = 'automatic' OR o.pay_requested_at IS NOT NULL)
                )
            )
        ORDER BY o.order_id
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS h;
    IF cardinality(_begun) < cardinality(_held) THEN
        UPDATE payment_attempts
        SET outcome = 'superseded', finished_at = clock_timestamp()
        WHERE order_id = ANY(_held) AND outcome IS NULL;
        -- Of an outage's hundreds of attempts the last one that was not sent is kept, and a hundred others.
        DELETE FROM payment_attempts AS a
        USING orders AS o
        WHERE a.order_id = ANY(_held) AND o.order_id = a.order_id
            AND (a.outcome = 'unsent' OR a.attempt < o.attempt - 100);
    END IF;
    RETURN QUERY
    WITH moved AS (
        UPDATE orders AS o
        SET
            status = CASE WHEN o.status = 'awaiting_payment' THEN 'processing_payment' ELSE o.status END,
            attempt = o.attempt + 1,
            due_at = clock_timestamp() + _due
        WHERE o.order_id = ANY(_held)
        RETURNING
            o.order_id, o.product_id, o.attempt, o.status, o.unit_price_minor * o.quantity AS amount_minor, o.currency
    ),
    opened AS (
        INSERT INTO payment_attempts AS a (order_id, attempt, gateway_key, amount_minor, currency)
        SELECT m.order_id, m.attempt, m.order_id::text, m.amount_minor, m.currency FROM moved AS m
        RETURNING a.order_id, a.gateway_key, a.begun_at
    )
    SELECT
        m.order_id, m.product_id, m.attempt,
        CASE
            WHEN m.attempt = 1 THEN 0
            ELSE (
                SELECT count(*)::integer FROM payment_attempts AS t
                WHERE t.order_id = m.order_id AND (t.outcome = 'unknown' OR (t.outcome = 'superseded' AND t.sent))
            )
        END,
        m.status, n.gateway_key, m.amount_minor, m.currency,
        (
            SELECT i.reference FROM payment_intents AS i
            WHERE i.order_id = m.order_id AND i.state IN ('open', 'authorized', 'captured') AND i.problem IS NULL
            ORDER BY intent_rank_v1(i.state) DESC, i.number DESC
            LIMIT 1
        ),
        CASE
            WHEN m.attempt = 1 THEN n.begun_at
            ELSE least(n.begun_at, (SELECT min(e.begun_at) FROM payment_attempts AS e WHERE e.order_id = m.order_id))
        END
    FROM moved AS m
    INNER JOIN opened AS n ON m.order_id = n.order_id;
    PERFORM notify_orders_v2(_begun);
END;
$$;
