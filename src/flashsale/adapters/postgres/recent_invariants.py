"""The orders that the minute audit reads: those that may have changed since the last audit.

These are the orders behind the mark of the totals and the stragglers (`carry_orders_v1`), each with all of its rows: an
order is looked at until it has been final for a quarter of an hour. The statements are those of `sql/invariants.sql`;
they read these orders instead of all, because a WITH clause puts them under the tables' names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    from uuid import UUID

WHOLE = "_whole"
"""End of the names of statements that no part of the orders can be judged by; there are others in their place."""

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
