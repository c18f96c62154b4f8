"""The provider's budget, shared by all processes: `sql/queries/turns.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/turns.sql")


class PostgresTurns:
    """Implements `turns.Ledger`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def take(
        self, provider: str, operation: str, count: int, *, interval_s: float, horizon_s: float
    ) -> tuple[int, float]:
        """Reserve instants; returns their number, and the wait for the first (or, if none, for the next free one)."""
        rows = await self._database.fetch(
            QUERIES["take"], provider, operation, count, timedelta(seconds=interval_s), timedelta(seconds=horizon_s)
        )
        return rows[0]["granted"], rows[0]["wait_s"]

    async def hold(self, provider: str, operation: str, pause_s: float) -> None:
        """Reserve every instant of an operation for a while, so that no call is made."""
        await self._database.fetch(QUERIES["hold"], provider, operation, timedelta(seconds=pause_s))

    async def rest(self, provider: str, pause_s: float) -> None:
        """Record that a provider is away, for a while."""
        await self._database.fetch(QUERIES["rest"], provider, timedelta(seconds=pause_s))

    async def back(self, provider: str) -> None:
        """Record that a provider answers again."""
        await self._database.fetch(QUERIES["back"], provider)

    async def away(self, provider: str) -> bool:
        """Whether a process found a provider away and lets it rest."""
        row = await self._database.fetch_row(QUERIES["away"], provider)
        return row is not None and bool(row["away"])

    async def put_off(self, orders: Sequence[tuple[UUID, float]]) -> None:
        """Postpone orders without opening an attempt."""
        await self._database.fetch(
            QUERIES["put_off"],
            [order_id for order_id, _ in orders],
            [timedelta(seconds=pause_s) for _, pause_s in orders],
        )
