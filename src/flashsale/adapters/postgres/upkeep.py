"""Statements that keep tables small (totals of old orders, deletions by age): `sql/queries/upkeep.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/upkeep.sql")


class PostgresUpkeep:
    """Implements `usecases.tidy.Upkeep`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def carry(self, *, settled_s: float, limit: int) -> int:
        """Add final orders to the totals; returns the number of orders that were read."""
        row = await self._database.fetch_row(QUERIES["carry"], timedelta(seconds=settled_s), limit)
        return 0 if row is None else row["orders"]

    async def delete_voids(self, *, older_s: float, limit: int) -> int:
        """Delete void requests with ids older than `older_s`; returns the number."""
        row = await self._database.fetch_row(QUERIES["delete_voids"], timedelta(seconds=older_s), limit)
        return 0 if row is None else row["voids"]

    async def delete_admin_keys(self, *, older_s: float, limit: int) -> int:
        """Delete administrators' keys older than `older_s`; returns the number."""
        row = await self._database.fetch_row(QUERIES["delete_admin_keys"], timedelta(seconds=older_s), limit)
        return 0 if row is None else row["keys"]

    async def delete_jobs(self, *, older_s: float, limit: int) -> int:
        """Delete jobs that ended without success more than `older_s` ago; returns the number."""
        row = await self._database.fetch_row(QUERIES["delete_jobs"], timedelta(seconds=older_s), limit)
        return 0 if row is None else row["jobs"]

    async def delete_webhooks(self, *, older_s: float, limit: int) -> int:
        """Delete handled webhooks older than `older_s`; returns the number."""
        row = await self._database.fetch_row(QUERIES["delete_webhooks"], timedelta(seconds=older_s), limit)
        return 0 if row is None else row["webhooks"]

    async def delete_messages(self, outcome: str, *, older_s: float, limit: int) -> int:
        """Delete messages of the outbox that ended so more than `older_s` ago; returns the number."""
        row = await self._database.fetch_row(QUERIES["delete_told"], outcome, timedelta(seconds=older_s), limit)
        return 0 if row is None else row["messages"]

    async def delete_orphans(self, *, limit: int) -> int:
        """Delete messages of the outbox to targets that are gone; returns the number."""
        row = await self._database.fetch_row(QUERIES["delete_orphans"], limit)
        return 0 if row is None else row["messages"]

    async def delete_revocations(self, *, older_s: float, limit: int) -> int:
        """Delete revocations older than `older_s`; returns the number."""
        row = await self._database.fetch_row(QUERIES["delete_revocations"], timedelta(seconds=older_s), limit)
        return 0 if row is None else row["revocations"]
