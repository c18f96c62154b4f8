"""Orders of past sales, written straight into the tables: as right as if they had been sold, and many in a short time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

ORDERS_PER_PRODUCT = 100_000
"""Each bought by another buyer."""

PROVIDER = "test"
"""Of all payments."""

ENDPOINT = "wh_a"
"""Told of one paid order in twenty: the others' messages were deleted."""

RARE = ("failed", 3)
"""A status that hardly any of the orders has, and how many have it."""

PAID = "('confirmed', 'refunded')"
"""The statuses whose orders were paid."""

PLAN = """
CREATE TEMPORARY TABLE old AS
SELECT
    n,
    (
        lpad(to_hex(floor(extract(EPOCH FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3)
        || to_hex(8 + n % 4) || substr(md5(n::text), 4, 15)
    )::uuid AS order_id,
    md5('buyer ' || n % {per_product})::uuid AS user_id,
    ('{product_ids}'::integer[])[1 + (n / {per_product})::integer] AS product_id,
    1 + n % {per_product} AS unit_no,
    CASE
        WHEN n < {rare} THEN 'failed'
        WHEN n % 100 < 80 THEN 'confirmed'
        WHEN n % 100 < 90 THEN 'refunded'
        WHEN n % 100 < 97 THEN 'payment_failed'
        ELSE 'expired'
    END AS status,
    at
FROM (
    SELECT n, now() - interval '30 days' + n * (interval '28 days' / {count}) AS at
    FROM generate_series(0, {count} - 1) AS n
) AS made
"""

ROWS = (
    """
    INSERT INTO users (user_id, name, email, role, created_at)
    SELECT user_id, 'Old buyer', user_id || '@buyers.invalid', 'buyer', min(at) FROM old GROUP BY user_id
    """,
    """
    INSERT INTO buyer_units (product_id, user_id, units, limit_id)
    SELECT product_id, user_id, CASE WHEN status = 'confirmed' THEN 1 ELSE 0 END, NULL FROM old
    """,
    """
    INSERT INTO requests (order_id, kind, user_id, key, fingerprint, created_at)
    SELECT order_id, 'order', user_id, 'k' || n, decode(md5(n::text), 'hex'), at FROM old
    """,
    """
    INSERT INTO orders (
        order_id, user_id, product_id, product_name, quantity, unit_price_minor, currency, payment_mode, status,
        version, attempt, refunded_minor, restocked, created_at, updated_at
    )
    SELECT
        order_id, user_id, product_id, 'Old phone', 1, 99999, 'USD', 'automatic', status,
        cardinality(steps), CASE WHEN status IN ('confirmed', 'payment_failed', 'refunded') THEN 1 ELSE 0 END,
        CASE WHEN status = 'refunded' THEN 99999 WHEN status = 'confirmed' AND n % 20 = 0 THEN 1 ELSE 0 END,
        status = 'refunded', at, at + interval '1 second' * (cardinality(steps) - 1)
    FROM old
    INNER JOIN histories USING (status)
    """,
    """
    INSERT INTO units (product_id, unit_no, order_id)
    SELECT product_id, unit_no, CASE WHEN status = 'confirmed' THEN order_id END FROM old
    """,
    """
    INSERT INTO order_events (order_id, version, status, at)
    SELECT old.order_id, step.version, step.status, old.at + interval '1 second' * (step.version - 1)
    FROM old
    INNER JOIN histories USING (status)
    CROSS JOIN LATERAL unnest(histories.steps) WITH ORDINALITY AS step (status, version)
    """,
    """
    INSERT INTO payment_attempts (
        order_id, attempt, gateway_key, amount_minor, currency, outcome, reference, begun_at, finished_at
    )
    SELECT
        order_id, 1, order_id::text, 99999, 'USD', CASE WHEN status = 'payment_failed' THEN 'declined' ELSE 'captured' END,
        'old ' || n, at + interval '3 s', at + interval '4 s'
    FROM old WHERE status IN ('confirmed', 'payment_failed', 'refunded')
    """,
    f"""
    INSERT INTO payment_intents (
        order_id, number, provider, reference, state, amount_minor, currency, window_left, created_at, updated_at
    )
    SELECT order_id, 1, '{PROVIDER}', 'old ' || n, 'captured', 99999, 'USD', interval '0', at, at + interval '4 s'
    FROM old WHERE status IN {PAID}
    """,
    f"""
    INSERT INTO webhook_events (provider, event_id, type, reference, received_at, taken_at)
    SELECT '{PROVIDER}', 'old ' || n, 'changed', 'old ' || n, at + interval '3 s', at + interval '4 s'
    FROM old WHERE status IN {PAID}
    """,
    """
    INSERT INTO refunds (
        order_id, number, amount_minor, currency, restock, reason, state, reference, created_at, finished_at
    )
    SELECT
        order_id, 1, CASE status WHEN 'refunded' THEN 99999 ELSE 1 END, 'USD', status = 'refunded',
        'made at the provider', 'succeeded', 're ' || n, at + interval '5 s', at + interval '6 s'
    FROM old WHERE status = 'refunded' OR (status = 'confirmed' AND n % 20 = 0)
    """,
    f"""
    INSERT INTO outbox (
        target_id, event, order_id, order_version, product_id, facts, due_at, attempts, outcome, created_at, ended_at
    )
    SELECT
        '{ENDPOINT}', 'order.confirmed', old.order_id, 5, old.product_id,
        jsonb_build_object(
            'order_id', old.order_id, 'user_id', old.user_id, 'product_id', old.product_id, 'product_name', 'Old phone',
            'quantity', 1, 'unit_price_minor', 99999, 'currency', 'USD', 'status', 'confirmed', 'order_version', 5,
            'created_at', old.at
        ),
        NULL, 1, 'delivered', old.at + interval '4 s', clock_timestamp()
    FROM old WHERE status IN {PAID} AND n % 20 = 0
    """,
    """
    INSERT INTO product_restocks (product_id, units)
    SELECT product_id, count(*) FROM old WHERE status = 'refunded' GROUP BY product_id
    """,
    """
    UPDATE products AS p
    SET allotment = made.units, created_at = made.since, updated_at = made.since
    FROM (SELECT product_id, count(*) AS units, min(at) AS since FROM old GROUP BY product_id) AS made
    WHERE p.product_id = made.product_id
    """,
    """
    UPDATE product_terms AS t
    SET allotment = made.units, valid_from = made.since
    FROM (SELECT product_id, count(*) AS units, min(at) AS since FROM old GROUP BY product_id) AS made
    WHERE t.product_id = made.product_id
    """,
    """
    UPDATE product_live AS l
    SET free = made.free
    FROM (
        SELECT product_id, count(*) FILTER (WHERE status <> 'confirmed') AS free FROM old GROUP BY product_id
    ) AS made
    WHERE l.product_id = made.product_id
    """,
)

COUNT_AGAIN = """
UPDATE order_mark SET order_id = '00000000-0000-0000-0000-000000000000';
DELETE FROM order_totals;
DELETE FROM order_stragglers
"""
"""The totals may have passed the time of the old orders."""

FILLED = tuple(re.findall(r"INSERT INTO (\w+)", " ".join(ROWS)))
"""The tables to which old orders add rows."""

NEW_PRODUCTS = """
WITH made AS (
    INSERT INTO products (name, price_minor, currency, allotment, payment_mode, payment_window_s, limit_per)
    SELECT 'Old phone', 99999, 'USD', 0, 'automatic', 300, 'account' FROM generate_series(1, $1)
    RETURNING product_id
)
INSERT INTO product_live (product_id, free) SELECT made.product_id, 0 FROM made RETURNING product_id
"""

HISTORIES = """
CREATE TEMPORARY TABLE histories AS
SELECT status, string_to_array(path, ' ') || status AS steps
FROM (VALUES
    ('confirmed', 'queued processing awaiting_payment processing_payment'),
    ('refunded', 'queued processing awaiting_payment processing_payment confirmed refund_pending'),
    ('payment_failed', 'queued processing awaiting_payment processing_payment'),
    ('expired', 'queued processing awaiting_payment'),
    ('failed', 'queued')
) AS known (status, path)
"""


async def add_old_products(db: asyncpg.Connection, count: int) -> list[int]:
    """Add the products of so many old orders, without units yet; returns their ids."""
    rows = await db.fetch(NEW_PRODUCTS, -(-count // ORDERS_PER_PRODUCT))
    return [row["product_id"] for row in rows]


async def add_old_orders(db: asyncpg.Connection, count: int) -> None:
    """Add orders that ended 2 to 30 days ago, of products of their own. Triggers and foreign keys do not look."""
    product_ids = await add_old_products(db, count)
    plan = PLAN.format(
        count=count,
        per_product=ORDERS_PER_PRODUCT,
        product_ids="{" + ",".join(map(str, product_ids)) + "}",
        rare=RARE[1],
    )
    async with db.transaction():
        await db.execute("SET LOCAL session_replication_role = replica; SET LOCAL synchronous_commit = off")
        for statement in (HISTORIES, plan, *ROWS, COUNT_AGAIN):
            await db.execute(statement)
        await db.execute("DROP TABLE old, histories")
    for table in FILLED:
        await db.execute(f"VACUUM ANALYZE {table}")


async def old_paid_orders(db: asyncpg.Connection, count: int) -> list[UUID]:
    """Read the ids of old orders of which nothing was refunded."""
    rows = await db.fetch(
        "SELECT order_id FROM orders WHERE status = 'confirmed' AND product_name = 'Old phone' AND refunded_minor = 0"
        " ORDER BY order_id LIMIT $1",
        count,
    )
    return [row["order_id"] for row in rows]
