-- name: begin
-- Opens an attempt for each order that may be charged now.
SELECT
    order_id, product_id, attempt, tries, status, gateway_key, amount_minor, currency, reference, first_begun_at
FROM begin_payments_v4($1, $2);

-- name: announce
-- Notes of open attempts ($1 order, $2 attempt) that their call is about to be made; gives their orders. An attempt that
-- somebody is ending is left out.
UPDATE payment_attempts
SET sent = true
WHERE (order_id, attempt) IN (
    SELECT a.order_id, a.attempt
    FROM payment_attempts AS a
    INNER JOIN unnest($1::uuid [], $2::integer []) AS i (order_id, attempt)
        ON a.order_id = i.order_id AND a.attempt = i.attempt
    WHERE a.outcome IS NULL
    FOR NO KEY UPDATE OF a SKIP LOCKED
)
RETURNING order_id;

-- name: finish
-- Writes what the gateway answered; gives where the orders are now, or that they are busy.
SELECT order_id, status FROM finish_payments_v2($1, $2, $3, $4, $5);
