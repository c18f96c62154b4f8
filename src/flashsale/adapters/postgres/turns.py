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
        """Reserve instants; returns how many, and how long to wait for the first (or the next free) one."""
        rows = await self._database.fetch(
            QUERIES["take"], provider, operation, count, timedelta(seconds=interval_s), timedelta(seconds=horizon_s)
        )
        return rows[0]["granted"], rows[0]["wait_s"]

    async def hold(self, provider: str, operation: str, pause_s: float) -> None:
        """Leave no instant of an operation free for a while."""
        await self._database.fetch(QUERIES["hold"], provider, operation, timedelta(seconds=pause_s))

    async def put_off(self, orders: Sequence[tuple[UUID, float]]) -> None:
        """Let orders be due after a pause, without an attempt."""
        await self._database.fetch(
            QUERIES["put_off"],
            [order_id for order_id, _ in orders],
            [timedelta(seconds=pause_s) for _, pause_s in orders],
        )
