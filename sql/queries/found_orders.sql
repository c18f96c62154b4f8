-- name: find
-- Finds orders of the time from $1 until $2, newest first (ids rise with time), from before id $3. The time of an id is
-- at most ten minutes from that at which Postgres made the order, so ids bound what is read.
SELECT o.order_id
FROM orders AS o
WHERE o.order_id < coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    AND o.order_id < coalesce(
        first_order_id_v1($2::timestamptz + interval '10 minutes'), 'ffffffff-ffff-ffff-ffff-ffffffffffff'
    )
    AND o.order_id >= coalesce(
        first_order_id_v1(greatest($1::timestamptz - interval '10 minutes', to_timestamp(0))),
        '00000000-0000-0000-0000-000000000000'
    )
    AND o.created_at >= coalesce($1::timestamptz, '-infinity')
    AND o.created_at < coalesce($2::timestamptz, 'infinity')
ORDER BY o.order_id DESC
LIMIT $4;

-- name: find_of
-- Finds orders of one product ($5) or in one status ($6) or both, otherwise like `find`. Of the final ones it reads the
-- newest of each product and status, so that rare orders are not looked for among all; the others are few.
WITH bounds AS MATERIALIZED (
    SELECT
        least(
            coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
            coalesce(
                first_order_id_v1($2::timestamptz + interval '10 minutes'), 'ffffffff-ffff-ffff-ffff-ffffffffffff'
            )
        ) AS below,
        coalesce(
            first_order_id_v1(greatest($1::timestamptz - interval '10 minutes', to_timestamp(0))),
            '00000000-0000-0000-0000-000000000000'
        ) AS lowest,
        coalesce($1::timestamptz, '-infinity') AS since,
        coalesce($2::timestamptz, 'infinity') AS until
),
open AS MATERIALIZED (
    SELECT o.order_id
    FROM orders AS o
    CROSS JOIN bounds AS b
    WHERE o.due_at IS NOT NULL
        AND ($5::integer IS NULL OR o.product_id = $5)
        AND ($6::text IS NULL OR o.status = $6)
        AND o.order_id < b.below AND o.order_id >= b.lowest AND o.created_at >= b.since AND o.created_at < b.until
    ORDER BY o.order_id DESC
    LIMIT $4
),
final AS MATERIALIZED (
    SELECT newest.order_id
    FROM products AS p
    CROSS JOIN unnest(
        ARRAY['confirmed', 'payment_failed', 'expired', 'cancelled', 'failed', 'refunded']
    ) AS s (status)
    CROSS JOIN bounds AS b
    CROSS JOIN LATERAL (
        SELECT o.order_id
        FROM orders AS o
        WHERE o.due_at IS NULL AND o.product_id = p.product_id AND o.status = s.status
            AND o.order_id < b.below AND o.order_id >= b.lowest AND o.created_at >= b.since AND o.created_at < b.until
        ORDER BY o.order_id DESC
        LIMIT $4
    ) AS newest
    WHERE ($5::integer IS NULL OR p.product_id = $5) AND ($6::text IS NULL OR s.status = $6)
    ORDER BY newest.order_id DESC
    LIMIT $4
)
SELECT found.order_id
FROM (
    SELECT open.order_id FROM open
    UNION ALL
    SELECT final.order_id FROM final
) AS found
ORDER BY found.order_id DESC
LIMIT $4;

-- name: find_by
-- Finds orders of the buyers with the e-mail address $7 as it was written, or with its key $8, also those of which most is in
-- files only; the rest like `find_of`.
SELECT found.order_id
FROM (
    SELECT u.user_id FROM users AS u WHERE coalesce(u.email_key, lower(u.email)) IN (lower($7), $8)
) AS buyer
CROSS JOIN LATERAL (
    (
        SELECT o.order_id
        FROM orders AS o
        WHERE o.user_id = buyer.user_id
            AND o.order_id < coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            AND ($5::integer IS NULL OR o.product_id = $5)
            AND ($6::text IS NULL OR o.status = $6)
            AND o.created_at >= coalesce($1::timestamptz, '-infinity')
            AND o.created_at < coalesce($2::timestamptz, 'infinity')
        ORDER BY o.order_id DESC
        LIMIT $4
    )
    UNION ALL
    (
        SELECT a.order_id
        FROM archived_orders AS a
        WHERE a.user_id = buyer.user_id
            AND a.order_id < coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            AND ($5::integer IS NULL OR a.product_id = $5)
            AND ($6::text IS NULL OR a.status = $6)
            AND a.created_at >= coalesce($1::timestamptz, '-infinity')
            AND a.created_at < coalesce($2::timestamptz, 'infinity')
        ORDER BY a.order_id DESC
        LIMIT $4
    )
) AS found
ORDER BY found.order_id DESC
LIMIT $4;

-- name: found
-- Reads orders that were found, newest first, with their buyers' addresses; also those of which most is in files only.
SELECT
    o.order_id, o.user_id, u.email, o.product_id, o.product_name, o.quantity, o.unit_price_minor, o.currency, o.status,
    o.version + (SELECT t.base FROM timeline AS t WHERE t.one) AS version,
    o.changes + (SELECT t.base FROM timeline AS t WHERE t.one) AS changes,
    o.pay_by, o.payment_requested, o.refunded_minor, o.created_at, o.updated_at
FROM (
    SELECT
        l.order_id, l.user_id, l.product_id, l.product_name, l.quantity, l.unit_price_minor, l.currency, l.status,
        l.version, l.changes,
        CASE
            WHEN l.status = 'awaiting_payment' AND l.payment_mode = 'by_buyer' AND l.pay_requested_at IS NULL
                THEN l.due_at
        END AS pay_by,
        l.pay_requested_at IS NOT NULL AS payment_requested, l.refunded_minor, l.created_at, l.updated_at
    FROM orders AS l
    WHERE l.order_id = ANY($1::uuid [])
    UNION ALL
    SELECT
        a.order_id, a.user_id, a.product_id, a.product_name, a.quantity, a.unit_price_minor, a.currency, a.status,
        a.version, a.changes, NULL, false, a.refunded_minor, a.created_at, a.updated_at
    FROM archived_orders AS a
    WHERE a.order_id = ANY($1::uuid [])
) AS o
INNER JOIN users AS u ON o.user_id = u.user_id
ORDER BY o.order_id DESC;
