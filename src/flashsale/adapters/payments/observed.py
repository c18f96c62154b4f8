"""A payment gateway whose answers are counted and timed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flashsale.domain.payments import ChargeOutcome
from flashsale.runtime.shared_metrics import Counter, Histogram

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from flashsale.domain.money import Money
    from flashsale.domain.payments import ChargeAnswer, LedgerEntry
    from flashsale.usecases.ports import PaymentGateway

PAYMENTS = Counter(
    "flashsale_payments",
    "Answers of the payment gateway by call; unsent: it was not reached, or refused the call before it looked at it.",
    ["call", "outcome"],
)
SECONDS = Histogram(
    "flashsale_payment_seconds",
    "Time to the payment gateway's answer, or to giving up waiting for it, by call.",
    ["call"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10, 15),
)


class ObservedGateway:
    """Implements `ports.PaymentGateway` through another one."""

    def __init__(self, gateway: PaymentGateway) -> None:
        """Wrap a gateway."""
        self._gateway = gateway
        for call in ("charge", "cancel"):
            SECONDS.labels(call)
            for outcome in ChargeOutcome:
                PAYMENTS.labels(call, outcome)

    async def charge(self, *, key: str, amount: Money, timeout_s: float) -> ChargeAnswer:
        """Charge once per key, however often it is called."""
        return await _metered("charge", self._gateway.charge(key=key, amount=amount, timeout_s=timeout_s))

    async def cancel(self, *, key: str, timeout_s: float) -> ChargeAnswer:
        """Make sure that the key is never charged; CAPTURED if it was too late."""
        return await _metered("cancel", self._gateway.cancel(key=key, timeout_s=timeout_s))

    def ledger(self) -> AsyncIterator[LedgerEntry]:
        """Read the whole ledger."""
        return self._gateway.ledger()


async def _metered(call: str, answer: Awaitable[ChargeAnswer]) -> ChargeAnswer:
    began_s = time.perf_counter()
    charge = await answer
    PAYMENTS.labels(call, charge.outcome).inc()
    SECONDS.labels(call).observe(time.perf_counter() - began_s)
    return charge
