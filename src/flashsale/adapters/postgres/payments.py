"""Payment attempts: `sql/queries/payments.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import PaymentAttempt, PaymentResult
from flashsale.domain.traces import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/payments.sql")

BUSY = "busy"
"""Result of `finish` for an order whose row another transaction holds."""


class PostgresPayments:
    """Implements `ports.Payments`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def begin(self, order_ids: Sequence[UUID], *, due_s: float) -> Sequence[PaymentAttempt]:
        """Open an attempt for each order that may be charged now; a running one is superseded."""
        rows = await self._database.fetch(QUERIES["begin"], order_ids, timedelta(seconds=due_s))
        return [
            PaymentAttempt(
                order_id=row["order_id"],
                product_id=row["product_id"],
                attempt=row["attempt"],
                tries=row["tries"],
                unknown=row["status"] == OrderStatus.PAYMENT_UNKNOWN,
                never_asked=row["never_asked"],
                gateway_key=row["gateway_key"],
                amount=Money(minor=row["amount_minor"], currency=row["currency"]),
                reference=row["reference"],
                origin=Origin.read(row["request_id"]),
            )
            for row in rows
        ]

    async def announce(self, attempts: Sequence[PaymentAttempt]) -> set[UUID]:
        """Mark open attempts as sent before their calls; returns the orders whose attempt is still open."""
        rows = await self._database.fetch(
            QUERIES["announce"], [one.order_id for one in attempts], [one.attempt for one in attempts]
        )
        return {row["order_id"] for row in rows}

    async def finish(self, results: Sequence[PaymentResult]) -> dict[UUID, OrderStatus | None]:
        """Write outcomes of the newest attempts. Returns the orders' states, None if another transaction holds one."""
        rows = await self._database.fetch(
            QUERIES["finish"],
            [result.order_id for result in results],
            [result.attempt for result in results],
            [result.outcome.value for result in results],
            [result.reference for result in results],
            [timedelta(seconds=result.retry_after_s) for result in results],
        )
        return {row["order_id"]: None if row["status"] == BUSY else OrderStatus(row["status"]) for row in rows}
