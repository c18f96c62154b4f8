"""The orders that a settlement reads, and the fees that it writes: `sql/queries/settlement.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.orders import OrderStatus
from flashsale.usecases.settle import SettledOrder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.money import Money

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


class PostgresFees:
    """Implements `usecases.settle.Fees`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def keep(self, fees: Sequence[tuple[UUID, Money]]) -> None:
        """Write the fees of orders; a later reading replaces an earlier one."""
        await self._database.fetch(
            QUERIES["keep_fees"],
            [order_id for order_id, _ in fees],
            [fee.minor for _, fee in fees],
            [fee.currency for _, fee in fees],
        )
