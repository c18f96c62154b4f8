-- name: begin
-- Opens an attempt for each order that may be charged now.
SELECT order_id, attempt, status, gateway_key, amount_minor, currency FROM begin_payments_v1($1, $2);

-- name: finish
-- Writes what the gateway answered; gives the orders that moved.
SELECT order_id, status FROM finish_payments_v1($1, $2, $3, $4, $5);
