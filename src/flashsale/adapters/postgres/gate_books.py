"""Postgres' data about the gate (epochs, free units, returns): `sql/queries/gate_books.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.gate import GateReturn
from flashsale.domain.products import LiveStock
from flashsale.usecases.ports import LiveEpoch

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/gate_books.sql")


class PostgresGateBooks:
    """Implements `ports.GateBooks`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def live(self) -> Sequence[LiveEpoch]:
        """Read epoch and live stock of every product."""
        return [LiveEpoch(**dict(row)) for row in await self._database.fetch(QUERIES["live"])]

    async def begin_load(self, product_id: int, *, seen_epoch: int) -> tuple[int, int] | None:
        """Raise the epoch and read the free count; None if another process raised the epoch first."""
        row = await self._database.fetch_row(QUERIES["begin_load"], product_id, seen_epoch)
        return None if row is None else (row["epoch"], row["free"])

    async def epoch_and_free(self, product_id: int) -> tuple[int, LiveStock] | None:
        """Read the epoch and the live stock of a product."""
        row = await self._database.fetch_row(QUERIES["epoch_and_free"], product_id)
        if row is None:
            return None
        return row["epoch"], LiveStock(product_id=product_id, free=row["free"], version=row["version"])

    async def owed(self, product_ids: Sequence[int]) -> dict[int, int]:
        """Count the free units of each product, without units whose return the gate has not counted."""
        rows = await self._database.fetch(QUERIES["owed"], product_ids)
        return {row["product_id"]: row["units"] for row in rows}

    async def returns(self, *, limit: int, each: int | None = None, but: Collection[int] = ()) -> Sequence[GateReturn]:
        """Read returns that the gate has not counted: at most `each` per product, and none of a product in `but`."""
        rows = await self._database.fetch(QUERIES["returns"], limit, limit if each is None else each, list(but))
        return [GateReturn(**dict(row)) for row in rows]

    async def forget_returns(self, order_ids: Sequence[UUID]) -> None:
        """Delete returns that the gate has counted."""
        await self._database.fetch(QUERIES["forget_returns"], order_ids)
