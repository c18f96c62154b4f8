-- name: day
-- Sums the money that was taken and given back from $1 until $2, and what the provider kept, by product and currency; the
-- fees only if those of every payment are known, in the same currency. Both instants begin a quarter of an hour: that is
-- how the money of archived orders is summed.
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
    s.product_id, p.name AS product_name, s.currency, sum(s.payments)::bigint AS payments,
    sum(s.refunds)::bigint AS refunds, sum(s.revenue_minor)::bigint AS revenue_minor, sum(s.refunded_minor)::bigint AS refunded_minor,
    CASE WHEN sum(s.fees) = sum(s.payments) THEN sum(s.fees_minor)::bigint END AS fees_minor
FROM (
    SELECT
        o.product_id, o.currency, count(m.taken_minor) AS payments, count(m.back_minor) AS refunds,
        coalesce(sum(m.taken_minor), 0) AS revenue_minor, coalesce(sum(m.back_minor), 0) AS refunded_minor,
        count(f.fee_minor) AS fees, coalesce(sum(f.fee_minor), 0) AS fees_minor
    FROM moved AS m
    INNER JOIN orders AS o ON m.order_id = o.order_id
    LEFT JOIN payment_fees AS f ON m.order_id = f.order_id AND o.currency = f.currency AND m.taken_minor IS NOT NULL
    GROUP BY o.product_id, o.currency
    UNION ALL
    SELECT
        a.product_id, a.currency, a.payments, a.refunds, a.revenue_minor, a.refunded_minor, a.fees, a.fees_minor
    FROM archived_money AS a
    WHERE a.at >= $1 AND a.at < $2
) AS s
INNER JOIN products AS p ON s.product_id = p.product_id
GROUP BY s.product_id, p.name, s.currency
ORDER BY s.product_id, s.currency;
