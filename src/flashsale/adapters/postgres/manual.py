"""What operators recorded: `sql/queries/manual.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from flashsale.adapters.postgres.administration import change
from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.story import unless_archived
from flashsale.domain import errors, payment_errors
from flashsale.domain.manual import PAYMENT, ManualEntry
from flashsale.domain.money import Money
from flashsale.domain.payments import LedgerEntry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.requests import AdminRequest

QUERIES = load("queries/manual.sql")

PAGE = 1000
"""Payments that are read at a time."""


class PostgresManualBook:
    """Implements `usecases.record_money.ManualBook`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def record_payment(
        self,
        order_id: UUID,
        *,
        reference: str,
        amount: Money,
        recorded_by: UUID,
        due_s: float,
        request: AdminRequest | None = None,
    ) -> ManualEntry:
        """Record the payment of an order and defer its job."""
        async with (
            unless_archived(self._database, order_id),
            change(self._database, "record_payment", request) as changing,
        ):
            row = await changing.connection.fetchrow(
                QUERIES["record_payment"].text,
                order_id,
                reference,
                amount.minor,
                amount.currency,
                recorded_by,
                timedelta(seconds=due_s),
            )
            if row is None:
                raise AssertionError
            match row["result"]:
                case "recorded" | "repeated" as result:
                    if result == "recorded":
                        new = {"payment": reference, "amount_minor": amount.minor}
                        await changing.note(f"order/{order_id}", old={"status": row["status"]}, new=new)
                    return _entry(order_id, PAYMENT, row, amount)
                case "unknown":
                    raise errors.OrderNotFound
                case "differs":
                    raise payment_errors.PaymentDiffers(
                        price=str(Money(minor=row["price_minor"], currency=row["price_currency"])),
                        currency=row["price_currency"],
                    )
                case "other":
                    raise payment_errors.RecordedOtherwise(row["reference"])
                case "used":
                    raise payment_errors.ReferenceUsed
                case "elsewhere":
                    raise payment_errors.PaidElsewhere
                case _:
                    raise errors.StateForbids(action="paid", status=row["status"])

    async def record_refund(
        self,
        order_id: UUID,
        number: int,
        *,
        reference: str,
        recorded_by: UUID,
        due_s: float,
        request: AdminRequest | None = None,
    ) -> ManualEntry:
        """Record that the money of a pending refund was given back."""
        async with (
            unless_archived(self._database, order_id),
            change(self._database, "record_refund", request) as changing,
        ):
            row = await changing.connection.fetchrow(
                QUERIES["record_refund"].text, order_id, number, reference, recorded_by, timedelta(seconds=due_s)
            )
            if row is None:
                raise AssertionError
            match row["result"]:
                case "recorded" | "repeated" as result:
                    if result == "recorded":
                        new = {"refund": number, "state": "recorded", "reference": reference}
                        await changing.note(f"order/{order_id}", old={"refund": number, "state": row["state"]}, new=new)
                    return _entry(order_id, number, row, Money(minor=row["amount_minor"], currency=row["currency"]))
                case "unknown":
                    raise payment_errors.RefundNotFound
                case "other":
                    raise payment_errors.RecordedOtherwise(row["reference"])
                case "elsewhere":
                    raise payment_errors.PaidElsewhere
                case _:
                    raise payment_errors.RefundEnded(row["state"])

    async def payment_recorded(self, order_id: UUID) -> tuple[str, Money] | None:
        """Read reference and amount of an order's payment; None if nobody recorded it."""
        return _money(await self._database.fetch_row(QUERIES["payment_recorded"], order_id))

    async def refund_recorded(self, key: str) -> tuple[str, Money] | None:
        """Read reference and amount of the refund with this key; None if nobody recorded it."""
        return _money(await self._database.fetch_row(QUERIES["refund_recorded"], key))

    async def entries(self) -> AsyncIterator[LedgerEntry]:
        """Read every recorded payment, with the sum of its recorded refunds, by ascending order id."""
        after = UUID(int=0)
        while rows := await self._database.fetch(QUERIES["payments_recorded"], after, PAGE):
            for row in rows:
                yield LedgerEntry(
                    key=str(row["order_id"]),
                    status="captured",
                    amount_minor=row["amount_minor"],
                    currency=row["currency"],
                    refunded_minor=row["refunded_minor"],
                    captures=1,
                    reference=row["reference"],
                )
            after = rows[-1]["order_id"]


def _money(row: asyncpg.Record | None) -> tuple[str, Money] | None:
    if row is None:
        return None
    return row["reference"], Money(minor=row["amount_minor"], currency=row["currency"])


def _entry(order_id: UUID, number: int, row: asyncpg.Record, amount: Money) -> ManualEntry:
    return ManualEntry(
        order_id=order_id,
        number=number,
        reference=row["reference"],
        amount=amount,
        recorded_by=row["recorded_by"],
        recorded_at=row["recorded_at"],
    )
