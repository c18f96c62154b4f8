"""The provider `manual`: operators record payments and refunds, and nothing is asked of anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.payments.unsupported import Unsupported
from flashsale.domain.payments import ChargeAnswer, ChargeOutcome, NoAnswer, NoAnswerKind, Refund, RefundState
from flashsale.usecases.record_money import MANUAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from flashsale.domain.money import Money
    from flashsale.domain.payments import LedgerEntry
    from flashsale.usecases.record_money import ManualBook

WAIT_S = 900.0
"""Pause between two looks at a refund that an operator has not recorded yet. A record defers the job at once."""

NOT_RECORDED = "an operator has to give the money back and to record it"


class ManualGateway(Unsupported):
    """Implements `ports.PaymentGateway` over the book in Postgres."""

    name = MANUAL

    def __init__(self, book: ManualBook) -> None:
        """Read this book."""
        self._book = book

    async def charge(
        self,
        *,
        order_id: UUID,
        reference: str | None = None,  # noqa: ARG002 - the interface's
        amount: Money,
        timeout_s: float,  # noqa: ARG002
        first: bool = False,
    ) -> ChargeAnswer:
        """Take the payment that an operator recorded.

        Without a record nobody can be charged, so a first try is declined. Later, another provider may have charged, so
        such an order is left to a person.
        """
        recorded = await self._book.payment_recorded(order_id)
        if recorded is not None and recorded[1] == amount:
            return ChargeAnswer(outcome=ChargeOutcome.CAPTURED, reference=recorded[0])
        if first:
            return ChargeAnswer(outcome=ChargeOutcome.DECLINED, reference=MANUAL)
        return ChargeAnswer(outcome=ChargeOutcome.UNSENT, reference="another provider may have charged")

    async def cancel(
        self,
        *,
        order_id: UUID,  # noqa: ARG002 - the interface's
        reference: str | None = None,  # noqa: ARG002
        amount: Money | None = None,  # noqa: ARG002
        timeout_s: float,  # noqa: ARG002
    ) -> ChargeAnswer:
        """Cancel nothing: only a charge of another provider could be cancelled."""
        return ChargeAnswer(outcome=ChargeOutcome.UNSENT, reference="another provider may have charged")

    async def refund(  # type: ignore[override]
        self,
        *,
        key: str,
        reference: str,
        amount: Money,
        timeout_s: float,  # noqa: ARG002 - the interface's
    ) -> Refund | NoAnswer:
        """Return the refund if an operator recorded it."""
        recorded = await self._book.refund_recorded(key)
        if recorded is None or recorded[1] != amount:
            return NoAnswer(kind=NoAnswerKind.UNSENT, reason=NOT_RECORDED, retry_after_s=WAIT_S)
        return Refund(
            reference=recorded[0], key=key, intent=reference, state=RefundState.SUCCEEDED, amount=amount, reason=None
        )

    def ledger(self) -> AsyncIterator[LedgerEntry]:
        """Read every recorded payment."""
        return self._book.entries()
