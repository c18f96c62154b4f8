"""The orders that the audit of every minute reads: orders that may have changed since the last audit.

These are the orders above the mark of the totals and the stragglers (`carry_orders_v2`), each with all of its rows:
the audit reads an order until it has been final for 15 minutes. The statements are the ones of `sql/invariants.sql`.
A WITH clause defines the tables' names as the rows of these orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    from uuid import UUID

WHOLE = "_whole"
"""Suffix of the names of statements that need every order; other statements replace them here."""

RECENT = [
    *(query for query in load("invariants.sql").values() if not query.name.endswith(WHOLE)),
    *load("invariants_recent.sql").values(),
]

OF_ORDERS = (
    "orders",
    "order_events",
    "payment_attempts",
    "payment_intents",
    "refunds",
    "manual_entries",
    "requests",
    "gate_returns",
    "units",
    "outbox",
)
"""Tables whose rows belong to an order, by `order_id`."""

ROWS = """{table} AS (
    SELECT r.* FROM {table} AS r WHERE r.order_id > '{mark}'
    UNION ALL
    SELECT r.*
    FROM order_stragglers AS s
    CROSS JOIN LATERAL (SELECT f.* FROM {table} AS f WHERE f.order_id = s.order_id OFFSET 0) AS r
)"""
"""OFFSET 0 makes Postgres look up each straggler, also if its guess of their number speaks for a read of all rows."""

UNITS = "all_units AS (SELECT u.* FROM units AS u)"

MESSAGES = "product_messages AS (SELECT m.* FROM outbox AS m WHERE m.order_id IS NULL)"
"""The outbox keeps a few days, and few of its messages are about products."""

BUYERS = """buyer_units AS (
    SELECT b.*
    FROM (SELECT DISTINCT o.product_id, o.user_id FROM orders AS o) AS o
    INNER JOIN buyer_units AS b ON o.product_id = b.product_id AND o.user_id = b.user_id
)"""


def limited_to_recent(mark: UUID) -> str:
    """Return the WITH clause under which the tables hold the rows of recent orders; `all_units` holds every unit.

    `product_messages` holds every message about a product.
    """
    rows = [ROWS.format(table=table, mark=mark) for table in OF_ORDERS]
    return "WITH " + ",\n".join([UNITS, MESSAGES, *rows, BUYERS])
