-- name: request
-- Writes a refund that somebody asks for and defers its job; gives what came of it.
SELECT result, number, status, left_minor, currency FROM request_refund_v1($1, $2, $3, $4, $5, $6);

-- name: request_own
-- Writes the refund that the buyer of an order asks for; gives what came of it.
SELECT result, number, status, left_minor, currency FROM request_own_refund_v1($1, $2, $3);

-- name: refunds_of
-- Reads the refunds of an order.
SELECT
    number, refund_key, amount_minor, currency, restock, reason, requested_by, state, attempt, reference, problem,
    created_at, finished_at
FROM refunds
WHERE order_id = $1
ORDER BY number;

-- name: set_refund
-- Notes which refund the request of a key made.
UPDATE admin_requests SET refund_number = $3 WHERE user_id = $1 AND key = $2;

-- name: refund_made
-- Reads which refund the request of a key made.
SELECT refund_number FROM admin_requests WHERE user_id = $1 AND key = $2;

-- name: withdraw
-- Takes back a pending refund that nobody began to make; gives what came of it.
SELECT result, state FROM withdraw_refund_v1($1, $2);

-- name: begin
-- Opens a try of an order's pending refund.
SELECT number, attempt, sent, refund_key, charge_reference, amount_minor, currency FROM begin_refund_v1($1, $2);

-- name: note
-- Merges what the provider says of a refund; gives what came of it.
SELECT note_refund_v2($1, $2, $3, $4, $5, $6, $7, $8);

-- name: miss
-- Writes that a try brought no refund home; gives the state of the refund.
SELECT miss_refund_v1($1, $2, $3, $4, $5, $6, $7);

-- name: wake
-- Wakes due refunds; gives how many got a job.
SELECT wake_refunds_v2($1, $2);

-- name: note_dispute
-- Writes whether the provider holds the money of an order because of a dispute; gives the order if that is new.
UPDATE orders SET disputed = $2 WHERE order_id = $1 AND disputed <> $2 RETURNING order_id;

-- name: paid_by
-- Reads the provider's id of the intent that paid an order.
SELECT a.reference FROM payment_attempts AS a WHERE a.order_id = $1 AND a.outcome = 'captured';

-- name: bounce_unused
-- Notes that the bank sent the money of an intent ($2) that did not pay its order ($1) back to the shop, after it was given
-- back: a person has to pay the buyer. Gives the order if that is new.
UPDATE payment_intents SET problem = 'refund'
WHERE order_id = $1 AND reference = $2 AND state = 'refunded' AND problem IS DISTINCT FROM 'refund'
RETURNING order_id;
