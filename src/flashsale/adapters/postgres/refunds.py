"""Refunds: `sql/queries/refunds.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.administration import change
from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.story import refuse_archived, unless_archived
from flashsale.domain.errors import InvalidInput, StateForbids
from flashsale.domain.money import Money
from flashsale.domain.payment_errors import (
    OrderDisputed,
    RefundBegun,
    RefundEnded,
    RefundNotFound,
    RefundNotOffered,
    RefundTooLarge,
    RefundUnderWay,
)
from flashsale.domain.payments import RefundState
from flashsale.domain.refunds import WITHDRAWN, OrderRefund, RefundTry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from flashsale.adapters.postgres.administration import Change
    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.payments import Refund
    from flashsale.domain.refunds import WantedRefund
    from flashsale.domain.requests import AdminRequest

QUERIES = load("queries/refunds.sql")


class PostgresRefunds:
    """Implements `usecases.refund.Refunds`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def request(
        self, wanted: WantedRefund, *, due_s: float, request: AdminRequest | None = None
    ) -> OrderRefund | None:
        """Write a refund and defer its job, once under the key of a `request`; None if there is no such order."""
        async with change(self._database, "request_refund", request) as changing:
            number = None
            if request is not None and request.key is not None and changing.repeated:
                number = await changing.connection.fetchval(QUERIES["refund_made"].text, request.user_id, request.key)
            if number is None:
                number = await self._request(changing, wanted, due_s)
                if request is not None and request.key is not None and number is not None:
                    await changing.connection.execute(QUERIES["set_refund"].text, request.user_id, request.key, number)
            if number is None:
                return None
            rows = await changing.connection.fetch(QUERIES["refunds_of"].text, wanted.order_id)
        return next(_refund(wanted.order_id, row) for row in rows if row["number"] == number)

    async def _request(
        self,
        changing: Change,
        wanted: WantedRefund,
        due_s: float,
    ) -> int | None:
        row = await changing.connection.fetchrow(
            QUERIES["request"].text,
            wanted.order_id,
            wanted.amount_minor,
            wanted.restock,
            wanted.reason,
            wanted.requested_by,
            timedelta(seconds=due_s),
        )
        number = _number(row)
        if row is not None and number is not None:
            await changing.note(
                f"order/{wanted.order_id}",
                old={"status": row["status"], "left_minor": row["left_minor"]},
                new={
                    "refund": number,
                    "amount_minor": row["left_minor"] if wanted.amount_minor is None else wanted.amount_minor,
                    "restock": wanted.restock,
                    "reason": wanted.reason,
                },
            )
        return number

    async def withdraw(self, order_id: UUID, number: int, *, request: AdminRequest | None = None) -> OrderRefund:
        """Take back a pending refund that nobody began to make; a repetition changes nothing."""
        async with (
            unless_archived(self._database, order_id),
            change(self._database, "withdraw_refund", request) as changing,
        ):
            row = await changing.connection.fetchrow(QUERIES["withdraw"].text, order_id, number)
            if row is None:
                raise AssertionError
            match row["result"]:
                case "withdrawn":
                    states = [{"refund": number, "state": state} for state in (row["state"], WITHDRAWN)]
                    await changing.note(f"order/{order_id}", old=states[0], new=states[1])
                case "unknown":
                    raise RefundNotFound
                case "ended":
                    raise RefundEnded(row["state"])
                case "begun":
                    raise RefundBegun
            rows = await changing.connection.fetch(QUERIES["refunds_of"].text, order_id)
        return next(_refund(order_id, row) for row in rows if row["number"] == number)

    async def request_own(self, order_id: UUID, user_id: UUID, *, due_s: float) -> bool:
        """Write the refund that a buyer asks for and defer its job, once; False if the order is not the buyer's."""
        row = await self._database.fetch_row(QUERIES["request_own"], order_id, user_id, timedelta(seconds=due_s))
        # It may have been requested by an earlier COMMIT, which the standby may lack.
        await self._database.replicate()
        return _number(row) is not None

    async def of_order(self, order_id: UUID) -> Sequence[OrderRefund]:
        """Read the refunds of an order, the oldest first."""
        rows = await self._database.fetch(QUERIES["refunds_of"], order_id)
        if not rows:
            await refuse_archived(self._database, order_id)
        return [_refund(order_id, row) for row in rows]

    async def begin(self, order_id: UUID, *, due_s: float) -> RefundTry | None:
        """Begin a try of the order's pending refund; None if none is pending."""
        row = await self._database.fetch_row(QUERIES["begin"], order_id, timedelta(seconds=due_s))
        if row is None:
            return None
        return RefundTry(
            order_id=order_id,
            number=row["number"],
            attempt=row["attempt"],
            sent=row["sent"],
            key=row["refund_key"],
            reference=row["charge_reference"],
            amount=Money(minor=row["amount_minor"], currency=row["currency"]),
        )

    async def note(self, order_id: UUID, refund: Refund, *, retry_after_s: float | None = None) -> str:
        """Merge the provider's state of a refund; see `note_refund_v2` for the results."""
        row = await self._database.fetch_row(
            QUERIES["note"],
            order_id,
            refund.key,
            refund.reference,
            refund.state.value,
            refund.amount.minor,
            refund.amount.currency,
            refund.reason,
            None if retry_after_s is None else timedelta(seconds=retry_after_s),
        )
        return str(row and row[0])

    async def miss(self, one: RefundTry, outcome: str, problem: str, *, retry_after_s: float) -> RefundState | None:
        """Write why a try made no refund: `refused`, `unknown` or `unsent`; returns the refund's state."""
        row = await self._database.fetch_row(
            QUERIES["miss"],
            one.order_id,
            one.number,
            one.attempt,
            outcome,
            one.sent,
            problem,
            timedelta(seconds=retry_after_s),
        )
        return None if row is None or row[0] is None else RefundState(row[0])

    async def wake(self, *, limit: int, due_s: float) -> int:
        """Defer new jobs for due refunds without a job; returns the number of jobs."""
        row = await self._database.fetch_row(QUERIES["wake"], limit, timedelta(seconds=due_s))
        return 0 if row is None else int(row[0])

    async def paid_by(self, order_id: UUID) -> str | None:
        """Read the provider's id of the intent that paid an order; None if none did."""
        row = await self._database.fetch_row(QUERIES["paid_by"], order_id)
        return None if row is None else row["reference"]

    async def bounce_unused(self, order_id: UUID, reference: str) -> bool:
        """Write that the bank sent back money of an intent that did not pay its order; False if that was written."""
        return await self._database.fetch_row(QUERIES["bounce_unused"], order_id, reference) is not None

    async def note_dispute(self, order_id: UUID, *, disputed: bool) -> bool:
        """Write whether the order's charge is disputed; False if that was written before."""
        return await self._database.fetch_row(QUERIES["note_dispute"], order_id, disputed) is not None


def _number(row: asyncpg.Record | None) -> int | None:
    """Return the number of a refund that was requested; None: there is no such order. Else raise why not."""
    if row is None:
        raise AssertionError
    match row["result"]:
        case "requested":
            return int(row["number"])
        case "unknown":
            return None
        case "not_offered":
            raise RefundNotOffered
        case "unpaid":
            raise StateForbids(action="refunded", status=row["status"])
        case "under_way":
            raise RefundUnderWay
        case "disputed":
            raise OrderDisputed
        case "too_much":
            left = Money(minor=row["left_minor"], currency=row["currency"])
            raise RefundTooLarge(f"{left} {left.currency}")
        case _:
            raise InvalidInput(field="restock", problem="needs a refund of all that is left")


def _refund(order_id: UUID, row: asyncpg.Record) -> OrderRefund:
    return OrderRefund(
        order_id=order_id,
        number=row["number"],
        amount=Money(minor=row["amount_minor"], currency=row["currency"]),
        restock=row["restock"],
        reason=row["reason"],
        requested_by=row["requested_by"],
        state=RefundState(row["state"]),
        problem=row["problem"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )
