"""Orders after their 202: `sql/queries/orders.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.money import Money
from flashsale.domain.orders import Order, OrderStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/orders.sql")


class PostgresOrders:
    """Implements `ports.Orders`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def get_many(self, order_ids: Sequence[UUID]) -> dict[UUID, Order]:
        """Read orders by id; unknown ids are left out."""
        rows = await self._database.fetch(QUERIES["get_many"], order_ids)
        return {row["order_id"]: _order(row) for row in rows}

    async def process(self, order_ids: Sequence[UUID], *, payment_due_s: float) -> dict[UUID, OrderStatus]:
        """Move queued orders to awaiting payment and defer their payment jobs."""
        rows = await self._database.fetch(QUERIES["process"], order_ids, timedelta(seconds=payment_due_s))
        return {row["order_id"]: OrderStatus(row["status"]) for row in rows}

    async def end(self, order_ids: Sequence[UUID], status: OrderStatus) -> Sequence[UUID]:
        """End orders before any payment; gives those that ended."""
        rows = await self._database.fetch(QUERIES["end_orders"], order_ids, status.value)
        return [row["order_id"] for row in rows]

    async def request_payment(self, order_id: UUID, *, due_s: float) -> bool:
        """Defer the payment of an order that waits for its buyer; False if it does not wait."""
        row = await self._database.fetch_row(QUERIES["request_payment"], order_id, timedelta(seconds=due_s))
        return row is not None and bool(row[0])

    async def sweep(self, *, limit: int, due_s: float) -> tuple[int, int, int]:
        """Wake due orders; gives how many expired, how many got a new job, and how many were looked at."""
        row = await self._database.fetch_row(QUERIES["sweep"], limit, timedelta(seconds=due_s))
        return (0, 0, 0) if row is None else (row["expired"], row["deferred"], row["looked_at"])

    async def admin_list(
        self, *, product_id: int | None, status: OrderStatus | None, before: UUID | None, limit: int
    ) -> Sequence[Order]:
        """List orders, newest first, from before an order id."""
        if product_id is None and status is None:
            rows = await self._database.fetch(QUERIES["admin_list"], before, limit)
        else:
            rows = await self._database.fetch(
                QUERIES["admin_list_of"], product_id, None if status is None else status.value, before, limit
            )
        return [_order(row) for row in rows]


def _order(row: asyncpg.Record) -> Order:
    return Order(
        order_id=row["order_id"],
        user_id=row["user_id"],
        product_id=row["product_id"],
        product_name=row["product_name"],
        quantity=row["quantity"],
        unit_price=Money(minor=row["unit_price_minor"], currency=row["currency"]),
        status=OrderStatus(row["status"]),
        version=row["version"],
        payment_requested=row["payment_requested"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
