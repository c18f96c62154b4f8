"""Figures for metrics and live views: `sql/queries/figures.sql`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.orders import FINAL, OrderStatus
from flashsale.usecases.figures import Figures, Pace, ProductCount, Sales, Told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/figures.sql")

QUANTILES = (0.5, 0.95, 0.99)


class PostgresFigures:
    """Implements `usecases.figures.FiguresSource`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def read(self) -> Figures:
        """Count orders and jobs. It reads the latest orders and those that are not final; totals have the others."""
        orders = await self._database.fetch(QUERIES["orders_by_status"])
        times = await self._database.fetch_row(QUERIES["order_times"], list(QUANTILES))
        jobs = await self._database.fetch(QUERIES["jobs_by_queue"])
        told = await self._database.fetch(QUERIES["outbox_by_target"])
        server = await self._database.fetch_row(QUERIES["server"])
        if times is None or server is None:
            raise AssertionError
        counts: Counter[str] = Counter()
        for row in orders:
            counts[row["status"]] += row["orders"]
        return Figures(
            orders=dict(counts),
            oldest_s={row["status"]: row["oldest_s"] for row in orders if OrderStatus(row["status"]) not in FINAL},
            value_minor={(row["status"], row["currency"]): row["value_minor"] for row in orders},
            order_s=dict(zip(QUANTILES, times["seconds"] or (), strict=False)),
            jobs={(row["queue"], row["status"]): row["jobs"] for row in jobs},
            job_oldest_s={(row["queue"], row["status"]): row["oldest_s"] for row in jobs},
            outbox=[Told(**dict(row)) for row in told],
            **server,
        )

    async def pace(self) -> Pace:
        """Count the orders of the last seconds, by their ids, which begin with their time."""
        row = await self._database.fetch_row(QUERIES["pace"])
        attempts = await self._database.fetch(QUERIES["recent_attempts"])
        if row is None:
            raise AssertionError
        return Pace(**row, attempts={one["outcome"]: one["attempts"] for one in attempts})

    async def sales(self, product_ids: Sequence[int]) -> Sequence[Sales]:
        """Count the orders of each product by status, in the way of `read`."""
        rows = await self._database.fetch(QUERIES["sales"], product_ids)
        return [Sales(**dict(row)) for row in rows]

    async def sales_and_refunds(self, product_ids: Sequence[int]) -> Sequence[Sales]:
        """Count the same, and what was given back."""
        rows = await self._database.fetch(QUERIES["sales_and_refunds"], product_ids)
        return [Sales(**dict(row)) for row in rows]

    async def products(self, *, limit: int) -> Sequence[ProductCount]:
        """Count the units of the newest products that are not archived."""
        rows = await self._database.fetch(QUERIES["counted_products"], limit)
        return [ProductCount(**dict(row)) for row in rows]
