"""The orders that a settlement reads: `sql/queries/settlement.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.orders import OrderStatus
from flashsale.usecases.settle import SettledOrder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/settlement.sql")


class PostgresSettledOrders:
    """Implements `usecases.settle.SettledOrders`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def page(self, after: UUID, limit: int) -> Sequence[SettledOrder]:
        """Read the orders after an id, by ascending id."""
        rows = await self._database.fetch(QUERIES["settled_orders"], after, limit)
        return [SettledOrder(**{**dict(row), "status": OrderStatus(row["status"])}) for row in rows]
