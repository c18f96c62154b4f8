"""The orders that the audit of every minute reads: orders that may have changed since the last audit.

These are the orders above the mark of the totals and the stragglers (`carry_orders_v1`), each with all of its rows:
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
    "requests",
    "gate_returns",
    "units",
    "outbox",
)
"""Tables whose rows belong to an order, by `order_id`."""

ROWS = """{table} AS (
    SELECT r.* FROM {table} AS r WHERE r.order_id > '{mark}'
    UNION ALL
    SELECT r.* FROM order_stragglers AS s INNER JOIN {table} AS r ON s.order_id = r.order_id
)"""

UNITS = "all_units AS (SELECT u.* FROM units AS u)"
RESTOCKED = "all_restocked AS (SELECT o.product_id, o.quantity FROM orders AS o WHERE o.restocked)"

BUYERS = """buyer_units AS (
    SELECT b.*
    FROM (SELECT DISTINCT o.product_id, o.user_id FROM orders AS o) AS o
    INNER JOIN buyer_units AS b ON o.product_id = b.product_id AND o.user_id = b.user_id
)"""


def limited_to_recent(mark: UUID) -> str:
    """Return the WITH clause under which the tables hold the rows of recent orders; `all_units` holds every unit,
    `all_restocked` every refunded order that released its units.
    """
    rows = [ROWS.format(table=table, mark=mark) for table in OF_ORDERS]
    return "WITH " + ",\n".join([UNITS, RESTOCKED, *rows, BUYERS])
