"""Payments and refunds by day: `sql/queries/books.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.books import BookEntry
from flashsale.domain.money import Money

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/books.sql")


class PostgresLedgerDays:
    """Implements `usecases.books.LedgerDays`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def day(self, day: date, since: datetime, until: datetime) -> Sequence[BookEntry]:
        """Sum what moved from one instant until another."""
        return [
            BookEntry(
                day=day,
                product_id=row["product_id"],
                product_name=row["product_name"],
                payments=row["payments"],
                refunds=row["refunds"],
                revenue=Money(minor=row["revenue_minor"], currency=row["currency"]),
                refunded=Money(minor=row["refunded_minor"], currency=row["currency"]),
                fees=None if row["fees_minor"] is None else Money(minor=row["fees_minor"], currency=row["currency"]),
            )
            for row in await self._database.fetch(QUERIES["day"], since, until)
        ]
