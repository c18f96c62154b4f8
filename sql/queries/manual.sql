-- name: record_payment
-- Records that an order was paid outside, and defers its payment job.
SELECT result, status, price_minor, price_currency, reference, recorded_by, recorded_at
FROM record_payment_v1($1, $2, $3, $4, $5, $6);

-- name: record_refund
-- Records that the money of a refund was given back outside, and defers its job.
SELECT result, state, reference, amount_minor, currency, recorded_by, recorded_at FROM record_refund_v1($1, $2, $3, $4, $5);

-- name: payment_recorded
-- Reads the record of an order's payment.
SELECT e.reference, e.amount_minor, e.currency FROM manual_entries AS e WHERE e.order_id = $1 AND e.number = 0;

-- name: refund_recorded
-- Reads the record of a refund ($1: its key).
SELECT e.reference, e.amount_minor, e.currency
FROM manual_entries AS e
INNER JOIN refunds AS r ON e.order_id = r.order_id AND e.number = r.number
WHERE r.refund_key = $1;

-- name: payments_recorded
-- Reads recorded payments after an order's id, with what of them was given back; without those whose job has not begun. Of
-- paid orders in files only the records are there too.
SELECT r.order_id, r.reference, r.amount_minor, r.currency, r.refunded_minor
FROM (
    (
        SELECT
            e.order_id, e.reference, e.amount_minor, e.currency,
            coalesce((
                SELECT sum(b.amount_minor) FROM manual_entries AS b WHERE b.order_id = e.order_id AND b.number > 0
            ), 0)::bigint AS refunded_minor
        FROM manual_entries AS e
        WHERE e.number = 0 AND e.order_id > $1
            AND NOT EXISTS (
                SELECT 1 FROM orders AS o
                WHERE o.order_id = e.order_id AND o.status = 'awaiting_payment' AND o.pay_requested_at IS NOT NULL
            )
        ORDER BY e.order_id
        LIMIT $2
    )
    UNION ALL
    (
        SELECT a.order_id, NULL, a.unit_price_minor * a.quantity, a.currency, a.refunded_minor
        FROM archived_orders AS a
        WHERE a.status IN ('confirmed', 'refunded') AND a.order_id > $1
        ORDER BY a.order_id
        LIMIT $2
    )
) AS r
ORDER BY r.order_id
LIMIT $2;
