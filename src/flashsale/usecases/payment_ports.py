"""The ports of payments: their rows in Postgres, and the provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from flashsale.domain.money import Money
    from flashsale.domain.orders import OrderStatus
    from flashsale.domain.payments import (
        ChargeAnswer,
        Intent,
        LedgerEntry,
        NoAnswer,
        PaymentAttempt,
        PaymentResult,
        PaymentTerms,
        ProviderEvent,
        Refund,
    )


class Payments(Protocol):
    """Payment attempts in Postgres."""

    async def begin(self, order_ids: Sequence[UUID], *, due_s: float) -> Sequence[PaymentAttempt]:
        """Open an attempt for each order that may be charged now; a running one is superseded."""
        ...

    async def announce(self, attempts: Sequence[PaymentAttempt]) -> Collection[UUID]:
        """Mark open attempts as sent before their calls; returns the orders whose attempt is still open."""
        ...

    async def finish(self, results: Sequence[PaymentResult]) -> dict[UUID, OrderStatus | None]:
        """Write outcomes of the newest attempts. Returns the orders' states, None if another transaction holds one."""
        ...


class PaymentGateway(Protocol):
    """The payment provider. It never raises for a failure of the network or the provider: see UNKNOWN, UNSENT, REFUSED.

    Calls may be repeated: the effect of a call happens once. A call that the provider does not offer raises
    `NotSupported`. `reference` is the provider's id of the order's intent, None if the id is not known.
    """

    @property
    def name(self) -> str:
        """The provider's name, as in the setting `payments.provider`."""
        ...

    async def charge(
        self, *, order_id: UUID, reference: str | None = None, amount: Money, timeout_s: float, first: bool = False
    ) -> ChargeAnswer:
        """Make sure that the order's money is taken: open and capture an intent, or capture the named intent.

        `first`: no call for this order has reached the provider before.
        """
        ...

    async def cancel(
        self, *, order_id: UUID, reference: str | None = None, amount: Money | None = None, timeout_s: float
    ) -> ChargeAnswer:
        """Make sure that the order is never charged; CAPTURED if the charge has already happened.

        Without a `reference`, the `amount` identifies the charge that may have been asked for.
        """
        ...

    async def open_intent(
        self, *, order_id: UUID, number: int, amount: Money, timeout_s: float, terms: PaymentTerms | None = None
    ) -> Intent | NoAnswer:
        """Open the order's intent `number` for the buyer to pay; the next number only after a definite end.

        With `terms` the provider may open a page for it.
        """
        ...

    async def look_up(
        self, *, order_id: UUID | None, reference: str | None = None, timeout_s: float
    ) -> Intent | NoAnswer:
        """Read the named intent, or the order's newest. REFUSED with the reason `not found` proves nothing."""
        ...

    async def refund(self, *, key: str, reference: str, amount: Money, timeout_s: float) -> Refund | NoAnswer:
        """Make sure that `amount` of a captured intent is given back once under this key; returns its present state.

        REFUSED means that nothing was given back under this key.
        """
        ...

    async def refunds(self, *, reference: str, timeout_s: float) -> Sequence[Refund] | NoAnswer:
        """Read every refund of an intent."""
        ...

    def read_webhook(self, *, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
        """Check a webhook on the bytes that arrived. Names of `headers` are in lower case.

        Raises:
            WebhookRefused: if the webhook is not signed with our secret, is too old, or cannot be read.
        """
        ...

    def intents(self, *, since: datetime) -> AsyncIterator[Intent]:
        """Read every intent opened since, newest first.

        Raises:
            Unavailable: if the provider is away, or the list breaks off.
        """
        ...

    def ledger(self) -> AsyncIterator[LedgerEntry]:
        """Read the whole ledger, for the audit."""
        ...
