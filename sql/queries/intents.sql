-- name: begin_intent
-- Gives the intent under which the buyer of an order pays, a new one if there is none.
SELECT
    number, state, reference, client_secret, page_url, amount_minor, currency, problem, product_name, window_s, asked_at,
    window_left, (SELECT r.request_id FROM requests AS r WHERE r.order_id = $1) AS request_id
FROM begin_intent_v2($1, $2, $3);

-- name: open_intent
-- Writes what a provider answered when an intent was opened.
SELECT number, state, reference, client_secret, page_url, problem FROM open_intent_v1($1, $2, $3, $4, $5, $6, $7, $8);

-- name: merge
-- Writes what a provider says of an intent, and moves its order.
SELECT
    number, state, state_before, effect, order_status,
    (SELECT r.request_id FROM requests AS r WHERE r.order_id = $1) AS request_id
FROM merge_intent_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: lose
-- Gives up an intent that was opened without a clear answer: nobody has its secret, and nobody will get it.
UPDATE payment_intents
SET state = 'lost', due_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE order_id = $1 AND number = $2 AND state = 'opening';

-- name: wait
-- Waiting for the provider uses up nothing of the buyer's time, as long as it takes no longer than $3. The buyer is asked
-- to come again after $4.
UPDATE orders AS o
SET due_at = greatest(o.due_at, clock_timestamp() + i.window_left + $4::interval)
FROM payment_intents AS i
WHERE o.order_id = $1 AND i.order_id = o.order_id AND i.number = $2 AND i.state = 'opening'
    AND i.created_at > clock_timestamp() - $3::interval
    AND o.status = 'awaiting_payment' AND o.pay_requested_at IS NULL AND o.due_at > clock_timestamp();

-- name: note
-- Notes an intent that an automatic charge opened, so that it is looked up by its reference from now on, and cancelled if
-- its order ends without it.
INSERT INTO payment_intents (
    order_id, number, provider, reference, state, amount_minor, currency, window_left, due_at
)
SELECT
    o.order_id, coalesce((SELECT max(p.number) FROM payment_intents AS p WHERE p.order_id = o.order_id), 0) + 1, $2, $3,
    'open', o.unit_price_minor * o.quantity, o.currency, interval '0', clock_timestamp() + $4::interval
FROM orders AS o
WHERE o.order_id = $1
ON CONFLICT DO NOTHING;

-- name: held
-- Reads an intent with what is to be done with it: nothing if it is final, or if its order was paid by it.
SELECT
    i.number, i.provider, i.reference, i.state, i.amount_minor, i.currency, i.looks, i.problem, o.product_name,
    i.created_at AS asked_at, i.window_left,
    (SELECT p.payment_window_s FROM products AS p WHERE p.product_id = o.product_id) AS window_s,
    (
        i.state = 'lost' OR o.status IN ('payment_failed', 'expired', 'cancelled', 'failed')
        OR (
            o.status IN ('confirmed', 'refund_pending', 'refunded')
            AND NOT EXISTS (
                SELECT 1 FROM payment_attempts AS a
                WHERE a.order_id = o.order_id AND a.outcome = 'captured' AND a.reference = i.reference
            )
        )
    ) AS unwanted
FROM payment_intents AS i
INNER JOIN orders AS o ON i.order_id = o.order_id
WHERE i.order_id = $1 AND i.number = $2 AND i.due_at IS NOT NULL;

-- name: again
-- Looks at an intent again after $3.
UPDATE payment_intents
SET due_at = clock_timestamp() + $3::interval, looks = looks + 1, job_id = NULL
WHERE order_id = $1 AND number = $2 AND due_at IS NOT NULL;

-- name: refused
-- The money of an intent cannot be given back: a person has to.
UPDATE payment_intents
SET problem = 'refund', due_at = clock_timestamp() + $3::interval, looks = looks + 1, job_id = NULL
WHERE order_id = $1 AND number = $2 AND due_at IS NOT NULL;

-- name: receive
-- Writes a webhook down; gives whether it is new. The provider hears of one that came before only after the synchronous
-- standby has it.
SELECT
    fresh,
    CASE
        WHEN NOT fresh AND current_setting('synchronous_standby_names') <> '' THEN pg_logical_emit_message(true, 'flashsale', '')
    END AS logged
FROM take_webhook_v1($1, $2, $3, $4, $5) AS fresh;

-- name: waiting
-- Reads the webhooks that wait and speak of the intent of which one ($1 provider, $2 event) speaks: none if it was taken.
SELECT e.event_id, e.type, e.reference
FROM webhook_events AS e
WHERE e.provider = $1 AND e.taken_at IS NULL AND e.reference = (
    SELECT w.reference FROM webhook_events AS w WHERE w.provider = $1 AND w.event_id = $2 AND w.taken_at IS NULL
);

-- name: taken
-- Notes that webhooks were taken, and of which order they are, if of one.
UPDATE webhook_events
SET taken_at = clock_timestamp(), due_at = NULL, job_id = NULL, order_id = $3
WHERE provider = $1 AND event_id = ANY($2::text []) AND taken_at IS NULL;

-- name: events_again
-- Takes webhooks again after $3.
UPDATE webhook_events
SET due_at = clock_timestamp() + $3::interval, job_id = NULL
WHERE provider = $1 AND event_id = ANY($2::text []) AND taken_at IS NULL;

-- name: archived
-- Gives an order of which most is in files only.
SELECT order_id FROM archived_orders WHERE order_id = $1;

-- name: settled
-- Gives the order of an intent ($1 provider, $2 reference) of which nothing more can come but refunds and disputes: the
-- order was paid by it, or it is cancelled or given back.
SELECT coalesce(
    (
        SELECT i.order_id FROM payment_intents AS i
        WHERE i.provider = $1 AND i.reference = $2 AND i.due_at IS NULL
        LIMIT 1
    ),
    (SELECT a.order_id FROM payment_attempts AS a WHERE a.reference = $2 AND a.outcome = 'captured' LIMIT 1)
) AS order_id;

-- name: known_intent
-- Gives an order of which an intent ($1 provider, $2 reference) is.
SELECT i.order_id FROM payment_intents AS i WHERE i.provider = $1 AND i.reference = $2
UNION ALL
SELECT a.order_id FROM payment_attempts AS a WHERE a.reference = $2 AND a.outcome = 'captured'
LIMIT 1;

-- name: origin_of_intent
-- Reads the HTTP request that made the order of an intent ($1 provider, $2 reference): the id, and after a space the span.
SELECT r.request_id
FROM requests AS r
WHERE r.order_id = coalesce(
    (SELECT i.order_id FROM payment_intents AS i WHERE i.provider = $1 AND i.reference = $2 LIMIT 1),
    (SELECT a.order_id FROM payment_attempts AS a WHERE a.reference = $2 AND a.outcome = 'captured' LIMIT 1)
);

-- name: wake
-- Makes jobs for due intents and webhooks.
SELECT intents, events FROM wake_payments_v2($1, $2, $3);
