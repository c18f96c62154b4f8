"""Orders that administrators look for: `sql/queries/found_orders.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.orders import order_of
from flashsale.adapters.postgres.queries import load
from flashsale.domain.emails import email_key
from flashsale.domain.orders import FoundOrder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.orders import OrderFilter

QUERIES = load("queries/found_orders.sql")


class PostgresFoundOrders:
    """Implements `usecases.find_orders.FoundOrders`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def find(self, wanted: OrderFilter, *, before: UUID | None, limit: int) -> Sequence[FoundOrder]:
        """Find orders, newest first, from before an order id."""
        place = (wanted.created_from, wanted.created_to, before, limit)
        which = (wanted.product_id, None if wanted.status is None else wanted.status.value)
        fetch = self._database.fetch
        if wanted.email is not None:
            found = await fetch(QUERIES["find_by"], *place, *which, wanted.email, email_key(wanted.email))
        elif which != (None, None):
            found = await fetch(QUERIES["find_of"], *place, *which)
        else:
            found = await fetch(QUERIES["find"], *place)
        rows = await fetch(QUERIES["found"], [row["order_id"] for row in found])
        return [FoundOrder(order=order_of(row), email=row["email"]) for row in rows]
