"""Calls that a payment provider does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashsale.domain.payment_errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flashsale.domain.payments import Intent, LedgerEntry, NoAnswer, ProviderEvent, Refund


class Unsupported:
    """The rest of `ports.PaymentGateway` for an adapter that has `charge` and `cancel`; each raises NotSupported."""

    name: str

    async def open_intent(self, **_: Any) -> Intent | NoAnswer:
        """Raise NotSupported."""
        raise NotSupported(provider=self.name, call="open_intent")

    async def look_up(self, **_: Any) -> Intent | NoAnswer:
        """Raise NotSupported."""
        raise NotSupported(provider=self.name, call="look_up")

    async def refund(self, **_: Any) -> Refund | NoAnswer:
        """Raise NotSupported."""
        raise NotSupported(provider=self.name, call="refund")

    async def refunds(self, **_: Any) -> Sequence[Refund] | NoAnswer:
        """Raise NotSupported."""
        raise NotSupported(provider=self.name, call="refunds")

    def read_webhook(self, **_: Any) -> ProviderEvent:
        """Raise NotSupported."""
        raise NotSupported(provider=self.name, call="read_webhook")

    def intents(self, **_: Any) -> AsyncIterator[Intent]:
        """Raise NotSupported."""
        raise NotSupported(provider=self.name, call="intents")

    def ledger(self) -> AsyncIterator[LedgerEntry]:
        """Raise NotSupported."""
        raise NotSupported(provider=self.name, call="ledger")
