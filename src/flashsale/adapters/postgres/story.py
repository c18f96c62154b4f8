"""What happened to one order: `sql/queries/story.sql`."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.errors import NotFound, OrderArchived
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.traces import Origin
from flashsale.usecases.story import Entry, Story

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/story.sql")


class PostgresStories:
    """Implements `usecases.story.Stories`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def read(self, order_id: UUID) -> Story | None:
        """Read an order, then its history; an entry may therefore be newer than the order's status."""
        row = await self._database.fetch_row(QUERIES["order"], order_id)
        if row is None:
            await refuse_archived(self._database, order_id)
            return None
        fields = dict(row)
        price = Money(minor=fields.pop("unit_price_minor"), currency=fields.pop("currency"))
        entries = [
            Entry(at=entry["at"], kind=entry["kind"], facts=json.loads(entry["facts"]))
            for entry in await self._database.fetch(QUERIES["entries"], order_id)
        ]
        status = OrderStatus(fields.pop("status"))
        origin = Origin.read(fields.pop("request_id"))
        return Story(
            **fields,
            status=status,
            unit_price=price,
            entries=entries,
            request_id=origin.request_id,
            trace_id=origin.trace_id,
        )


async def refuse_archived(database: Database, order_id: UUID) -> None:
    """Say where an order is that is in files only."""
    row = await database.fetch_row(QUERIES["archived"], order_id)
    if row is not None:
        raise OrderArchived(at=row["begun_at"], place=row["place"])


@asynccontextmanager
async def unless_archived(database: Database, order_id: UUID) -> AsyncIterator[None]:
    """Of an order that is in files only, do not say that there is no such order or refund, but where it is."""
    try:
        yield
    except NotFound:
        await refuse_archived(database, order_id)
        raise
