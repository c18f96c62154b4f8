-- name: day
-- Sums the money that was taken and given back from $1 until $2, and what the provider kept, by product and currency; the
-- fees only if those of every payment are known, in the same currency.
WITH moved AS (
    SELECT a.order_id, a.amount_minor AS taken_minor, NULL::bigint AS back_minor
    FROM payment_attempts AS a
    WHERE a.outcome = 'captured' AND a.finished_at >= $1 AND a.finished_at < $2
    UNION ALL
    SELECT r.order_id, NULL, r.amount_minor
    FROM refunds AS r
    WHERE r.state = 'succeeded' AND r.finished_at >= $1 AND r.finished_at < $2
)
SELECT
    o.product_id, p.name AS product_name, o.currency, count(m.taken_minor) AS payments, count(m.back_minor) AS refunds,
    coalesce(sum(m.taken_minor), 0)::bigint AS revenue_minor, coalesce(sum(m.back_minor), 0)::bigint AS refunded_minor,
    CASE WHEN count(f.fee_minor) = count(m.taken_minor) THEN coalesce(sum(f.fee_minor), 0)::bigint END AS fees_minor
FROM moved AS m
INNER JOIN orders AS o ON m.order_id = o.order_id
INNER JOIN products AS p ON o.product_id = p.product_id
LEFT JOIN payment_fees AS f ON m.order_id = f.order_id AND o.currency = f.currency AND m.taken_minor IS NOT NULL
GROUP BY o.product_id, p.name, o.currency
ORDER BY o.product_id, o.currency;
