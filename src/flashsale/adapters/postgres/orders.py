"""Orders after their 202: `sql/queries/orders.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.administration import change
from flashsale.adapters.postgres.queries import load
from flashsale.domain.money import Money
from flashsale.domain.orders import Order, OrderStatus
from flashsale.domain.traces import Origin
from flashsale.usecases.ports import Swept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.requests import AdminRequest

QUERIES = load("queries/orders.sql")


class PostgresOrders:
    """Implements `ports.Orders`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def get_many(self, order_ids: Sequence[UUID]) -> dict[UUID, Order]:
        """Read orders by id, also those of which most is in files only; unknown ids are left out."""
        rows = await self._database.fetch(QUERIES["get_many"], order_ids)
        found = {row["order_id"]: order_of(row) for row in rows}
        if missing := [order_id for order_id in order_ids if order_id not in found]:
            rows = await self._database.fetch(QUERIES["archived_many"], missing)
            found |= {row["order_id"]: order_of(row) for row in rows}
        return found

    async def process(self, order_ids: Sequence[UUID], *, payment_due_s: float) -> dict[UUID, OrderStatus]:
        """Move queued orders to awaiting payment and defer their payment jobs; see the port."""
        rows = await self._database.fetch(QUERIES["process"], order_ids, timedelta(seconds=payment_due_s))
        return {row["order_id"]: OrderStatus(row["status"]) for row in rows}

    async def origins(self, order_ids: Sequence[UUID]) -> dict[UUID, Origin]:
        """Read the HTTP requests that made orders; orders without one are left out."""
        rows = await self._database.fetch(QUERIES["origins"], order_ids)
        return {row["order_id"]: Origin.read(row["request_id"]) for row in rows}

    async def end(self, order_ids: Sequence[UUID], status: OrderStatus) -> Sequence[UUID]:
        """End orders before any payment. Returns the orders that ended."""
        rows = await self._database.fetch(QUERIES["end_orders"], order_ids, status.value)
        if not rows:
            # They may have ended so by a COMMIT that the standby lacks, and the caller tells of it.
            await self._database.replicate()
        return [row["order_id"] for row in rows]

    async def cancel(self, order_id: UUID, request: AdminRequest | None) -> bool:
        """Cancel an order for its buyer; False if it does not wait for payment."""
        async with change(self._database, "cancel_order", request) as changing:
            was, becomes = OrderStatus.AWAITING_PAYMENT.value, OrderStatus.CANCELLED.value
            ended = await changing.connection.fetchval(QUERIES["end_orders"].text, [order_id], becomes)
            if ended is not None:
                await changing.note(f"order/{order_id}", old={"status": was}, new={"status": becomes})
            return ended is not None

    async def request_payment(self, order_id: UUID, *, due_s: float) -> bool:
        """Defer the payment of an order that waits for its buyer; False if it does not wait."""
        row = await self._database.fetch_row(QUERIES["request_payment"], order_id, timedelta(seconds=due_s))
        if row is not None and row[0]:
            return True
        # It may have been deferred by a COMMIT that the standby lacks, and the caller tells of it.
        await self._database.replicate()
        return False

    async def due(self, *, limit: int) -> Sequence[tuple[UUID, int]]:
        """Read due orders with their products, the earliest due time first; postponed orders are left out."""
        rows = await self._database.fetch(QUERIES["due"], limit)
        return [(row["order_id"], row["product_id"]) for row in rows]

    async def sweep(self, order_ids: Sequence[UUID], *, due_s: float, patience_s: float | None) -> Swept:
        """Wake due orders. Waits for locks only if `patience_s` is given, which is meant for orders of one product."""
        patience = None if patience_s is None else timedelta(seconds=patience_s)
        row = await self._database.fetch_row(QUERIES["sweep"], order_ids, timedelta(seconds=due_s), patience)
        if row is None:
            raise AssertionError
        return Swept(expired=row["expired"], deferred=row["deferred"], busy=frozenset(row["busy"]))

    async def postpone(self, order_id: UUID, *, job: str, problem: str, pause_s: float, pause_max_s: float) -> int:
        """Postpone an order that Postgres refused to move; returns how often it was refused in its state."""
        row = await self._database.fetch_row(
            QUERIES["postpone"], order_id, job, problem, timedelta(seconds=pause_s), timedelta(seconds=pause_max_s)
        )
        return 0 if row is None else int(row["times"])

    async def count_postponed(self) -> int:
        """Count refused orders that have not moved since; deletes the records of orders that moved."""
        await self._database.fetch(QUERIES["forget_postponed"])
        row = await self._database.fetch_row(QUERIES["count_postponed"])
        return 0 if row is None else int(row["postponed"])

    async def of_buyer(self, user_id: UUID, *, before: UUID | None, limit: int) -> Sequence[Order]:
        """List the orders of an account, newest first, from before an order id."""
        rows = await self._database.fetch(QUERIES["of_buyer"], user_id, before, limit)
        return [order_of(row) for row in rows]


def order_of(row: asyncpg.Record) -> Order:
    """Make an order of its row."""
    return Order(
        order_id=row["order_id"],
        user_id=row["user_id"],
        product_id=row["product_id"],
        product_name=row["product_name"],
        quantity=row["quantity"],
        unit_price=Money(minor=row["unit_price_minor"], currency=row["currency"]),
        status=OrderStatus(row["status"]),
        version=row["version"],
        changes=row["changes"],
        payment_requested=row["payment_requested"],
        pay_by=row["pay_by"],
        refunded_minor=row["refunded_minor"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
