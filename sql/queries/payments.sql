-- name: begin
-- Opens an attempt for each order that may be charged now. never_asked: no call of an earlier attempt can have reached the
-- gateway. Of more than 100 attempts not all are kept, so nobody knows.
SELECT
    b.order_id, b.product_id, b.attempt, b.tries, b.status, b.gateway_key, b.amount_minor, b.currency, b.reference,
    (
        b.attempt <= 100 AND b.status <> 'payment_unknown' AND b.reference IS NULL AND NOT EXISTS (
            SELECT 1 FROM payment_attempts AS a
            WHERE a.order_id = b.order_id AND a.attempt < b.attempt AND a.outcome IS DISTINCT FROM 'unsent'
        )
    ) AS never_asked,
    (SELECT r.request_id FROM requests AS r WHERE r.order_id = b.order_id) AS request_id
FROM begin_payments_v4($1, $2) AS b;

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
