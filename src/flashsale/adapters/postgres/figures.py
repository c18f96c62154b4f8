"""Figures for metrics and live views: `sql/queries/figures.sql`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/figures.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the database counts right now."""

    orders: dict[str, int]
    """By status."""
    oldest_s: dict[str, float]
    """By status: seconds since the order that changed longest ago did."""
    jobs: dict[tuple[str, str], int]
    """By queue and status."""
    notify_queue_usage: float
    """Share of the server's notification queue in use, 0 to 1."""


class PostgresFigures:
    """Reads the figures."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def read(self) -> Figures:
        """Count orders and jobs; three index scans or short table scans."""
        orders = await self._database.fetch(QUERIES["orders_by_status"])
        jobs = await self._database.fetch(QUERIES["jobs_by_queue"])
        usage = await self._database.fetch_row(QUERIES["notify_queue"])
        return Figures(
            orders={row["status"]: row["orders"] for row in orders},
            oldest_s={row["status"]: row["oldest_s"] for row in orders},
            jobs={(row["queue"], row["status"]): row["jobs"] for row in jobs},
            notify_queue_usage=0.0 if usage is None else usage["usage"],
        )
