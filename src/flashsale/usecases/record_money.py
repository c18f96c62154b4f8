"""An operator records money of the provider `manual`: a payment that came, a refund that was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.errors import InvalidInput
from flashsale.domain.manual import REFERENCE_CHARS_MAX
from flashsale.domain.money import parse_money
from flashsale.domain.payment_errors import NotSupported, RefundNotFound
from flashsale.domain.refunds import NUMBER_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from flashsale.domain.manual import ManualEntry
    from flashsale.domain.money import Money
    from flashsale.domain.payments import LedgerEntry
    from flashsale.domain.requests import AdminRequest

log = structlog.get_logger(__name__)

MANUAL = "manual"
"""The provider's name in the setting `payments.provider`."""


class ManualBook(Protocol):
    """What operators recorded, in Postgres."""

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
        """Record the payment of an order and defer its payment job, in one transaction.

        Raises:
            OrderNotFound, StateForbids, PaymentDiffers, RecordedOtherwise, ReferenceUsed, PaidElsewhere, KeyReused:
                nothing was changed.
        """
        ...

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
        """Record that the money of a pending refund was given back, and defer its job, in one transaction.

        Raises:
            RefundNotFound, StateForbids, RecordedOtherwise, PaidElsewhere, KeyReused: nothing was changed.
        """
        ...

    async def payment_recorded(self, order_id: UUID) -> tuple[str, Money] | None:
        """Read reference and amount of an order's payment; None if nobody recorded it."""
        ...

    async def refund_recorded(self, key: str) -> tuple[str, Money] | None:
        """Read reference and amount of the refund with this key; None if nobody recorded it."""
        ...

    def entries(self) -> AsyncIterator[LedgerEntry]:
        """Read every recorded payment, with the sum of its recorded refunds."""
        ...


class RecordMoney:
    """The use cases of administrators. The caller checks the permission."""

    def __init__(self, book: ManualBook, *, provider: str, due_s: float) -> None:
        """`provider`: that of the deployment; with any other than `manual` nothing can be recorded.

        A record whose job is lost is due again after `due_s`.
        """
        self._book = book
        self._provider = provider
        self._due_s = due_s

    async def payment(
        self,
        order_id: UUID,
        *,
        reference: str,
        amount: str,
        currency: str,
        recorded_by: UUID,
        request: AdminRequest | None = None,
    ) -> ManualEntry:
        """Record that an order was paid; a payment job confirms it. The same record again gives the first one.

        Raises:
            NotSupported: if the deployment has another provider.
            InvalidInput: if amount, currency or reference cannot be read.
            And what `ManualBook.record_payment` raises.
        """
        self._check("record a payment", reference)
        entry = await self._book.record_payment(
            order_id,
            reference=reference,
            amount=parse_money(amount, currency, field="amount"),
            recorded_by=recorded_by,
            due_s=self._due_s,
            request=request,
        )
        # Without the reference: that of a bank transfer may be the payer's name.
        log.info("payment.recorded", order_id=str(order_id), by=str(entry.recorded_by))
        return entry

    async def refund(
        self, order_id: UUID, number: int, *, reference: str, recorded_by: UUID, request: AdminRequest | None = None
    ) -> ManualEntry:
        """Record that the money of a refund was given back; the same record again changes nothing.

        Raises:
            NotSupported: if the deployment has another provider.
            InvalidInput: if the reference cannot be read.
            And what `ManualBook.record_refund` raises.
        """
        if not 1 <= number <= NUMBER_MAX:
            raise RefundNotFound
        self._check("record a refund", reference)
        entry = await self._book.record_refund(
            order_id, number, reference=reference, recorded_by=recorded_by, due_s=self._due_s, request=request
        )
        log.info("refund.recorded", order_id=str(order_id), number=number, by=str(entry.recorded_by))
        return entry

    def _check(self, call: str, reference: str) -> None:
        if self._provider != MANUAL:
            raise NotSupported(provider=self._provider, call=call)
        if "\x00" in reference or not reference.strip() or len(reference) > REFERENCE_CHARS_MAX:
            raise InvalidInput(field="reference", problem=f"must have 1 to {REFERENCE_CHARS_MAX} visible characters")
