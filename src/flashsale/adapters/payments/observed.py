"""A payment gateway whose answers are counted, timed and traced."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from flashsale.domain.payments import ChargeAnswer, ChargeOutcome, Intent, NoAnswer, NoAnswerKind, Refund
from flashsale.runtime.shared_metrics import Counter, Histogram
from flashsale.runtime.tracing import calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from flashsale.domain.money import Money
    from flashsale.domain.payments import LedgerEntry, PaymentTerms, ProviderEvent
    from flashsale.usecases.payment_ports import PaymentGateway

PAYMENTS = Counter(
    "flashsale_payments",
    "Answers of the payment gateway by call. unsent: it was not reached, or refused the call before it looked at it."
    " refused: it says that the call is wrong.",
    ["call", "outcome"],
)
SECONDS = Histogram(
    "flashsale_payment_seconds",
    "Time to the payment gateway's answer, or to giving up waiting for it, by call.",
    ["call"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10, 15),
)

NO_ANSWERS = frozenset({ChargeOutcome.UNKNOWN.value, ChargeOutcome.UNSENT.value, NoAnswerKind.REFUSED.value})
"""Outcomes of calls that count as failed where they are traced. A decline is an answer."""


class ObservedGateway:
    """Implements `ports.PaymentGateway` through another one."""

    def __init__(self, gateway: PaymentGateway) -> None:
        """Wrap a gateway."""
        self._gateway = gateway
        for call in ("charge", "cancel"):
            SECONDS.labels(call)
            for outcome in ChargeOutcome:
                PAYMENTS.labels(call, outcome)
        for call in ("open_intent", "look_up", "refund"):
            SECONDS.labels(call)
            for one in ("answered", *NoAnswerKind):
                PAYMENTS.labels(call, one)

    @property
    def name(self) -> str:
        """The provider's name."""
        return self._gateway.name

    async def charge(
        self, *, order_id: UUID, reference: str | None = None, amount: Money, timeout_s: float, first: bool = False
    ) -> ChargeAnswer:
        """Make sure that the order's money is taken."""
        return await _metered(
            "charge",
            self._gateway.charge(
                order_id=order_id, reference=reference, amount=amount, timeout_s=timeout_s, first=first
            ),
        )

    async def cancel(
        self, *, order_id: UUID, reference: str | None = None, amount: Money | None = None, timeout_s: float
    ) -> ChargeAnswer:
        """Make sure that the order is never charged; CAPTURED if it was too late."""
        return await _metered(
            "cancel",
            self._gateway.cancel(order_id=order_id, reference=reference, amount=amount, timeout_s=timeout_s),
        )

    async def open_intent(
        self, *, order_id: UUID, number: int, amount: Money, timeout_s: float, terms: PaymentTerms | None = None
    ) -> Intent | NoAnswer:
        """Open the order's intent `number` for the buyer to pay."""
        return await _metered(
            "open_intent",
            self._gateway.open_intent(
                order_id=order_id, number=number, amount=amount, timeout_s=timeout_s, terms=terms
            ),
        )

    async def look_up(
        self, *, order_id: UUID | None, reference: str | None = None, timeout_s: float
    ) -> Intent | NoAnswer:
        """Read the order's newest intent."""
        return await _metered(
            "look_up", self._gateway.look_up(order_id=order_id, reference=reference, timeout_s=timeout_s)
        )

    async def refund(self, *, key: str, reference: str, amount: Money, timeout_s: float) -> Refund | NoAnswer:
        """Give `amount` of a captured intent back, once per key."""
        return await _metered(
            "refund", self._gateway.refund(key=key, reference=reference, amount=amount, timeout_s=timeout_s)
        )

    async def refunds(self, *, reference: str, timeout_s: float) -> Sequence[Refund] | NoAnswer:
        """Read every refund of an intent."""
        return await self._gateway.refunds(reference=reference, timeout_s=timeout_s)

    def read_webhook(self, *, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
        """Check a webhook on the bytes that arrived."""
        return self._gateway.read_webhook(headers=headers, body=body)

    def intents(self, *, since: datetime) -> AsyncIterator[Intent]:
        """Read every intent opened since, newest first."""
        return self._gateway.intents(since=since)

    def ledger(self) -> AsyncIterator[LedgerEntry]:
        """Read the whole ledger."""
        return self._gateway.ledger()


Result = TypeVar("Result", ChargeAnswer, Intent | NoAnswer, Refund | NoAnswer)


async def _metered(call: str, answer: Awaitable[Result]) -> Result:
    began_s = time.perf_counter()
    with calling(f"provider {call}") as span:
        result = await answer
        outcome = _outcome(result)
        if span is not None:
            span.facts["flashsale.outcome"] = str(outcome)
            span.error = str(outcome) if outcome in NO_ANSWERS else None
    PAYMENTS.labels(call, outcome).inc()
    SECONDS.labels(call).observe(time.perf_counter() - began_s)
    return result


def _outcome(result: ChargeAnswer | Intent | Refund | NoAnswer) -> str:
    if isinstance(result, ChargeAnswer):
        return result.outcome
    return result.kind if isinstance(result, NoAnswer) else "answered"
