-- name: begin
-- Opens an attempt for each order that may be charged now.
SELECT order_id, product_id, attempt, tries, status, gateway_key, amount_minor, currency
FROM begin_payments_v2($1, $2);

-- name: finish
-- Writes what the gateway answered; gives where the orders are now, or that they are busy.
SELECT order_id, status FROM finish_payments_v2($1, $2, $3, $4, $5);
