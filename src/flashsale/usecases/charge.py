"""The payment job: one attempt at the gateway for one order, written down before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from flashsale.domain.orders import RELEASING
from flashsale.usecases.batching import Batcher
from flashsale.usecases.ports import ChargeOutcome, PaymentResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.orders import OrderStatus
    from flashsale.settings import PaymentSettings
    from flashsale.usecases.ports import PaymentAttempt, PaymentGateway, Payments
    from flashsale.usecases.return_units import ReturnUnits

log = structlog.get_logger(__name__)

BATCH_MAX = 100
QUEUE_MAX = 10_000


class Charge:
    """The use case. Beginnings and outcomes of payments that run at the same time share transactions."""

    def __init__(
        self,
        payments: Payments,
        gateway: PaymentGateway,
        settings: PaymentSettings,
        return_units: ReturnUnits,
        *,
        payment_due_s: float,
    ) -> None:
        """An attempt whose worker dies is superseded after `payment_due_s`."""
        self._payments = payments
        self._gateway = gateway
        self._settings = settings
        self._return_units = return_units
        self._payment_due_s = payment_due_s
        self._beginning: Batcher[UUID, PaymentAttempt | None] = Batcher(
            self._begin, batch_max=BATCH_MAX, queue_max=QUEUE_MAX, rivals=lambda order_id: (order_id,)
        )
        self._finishing: Batcher[PaymentResult, OrderStatus | None] = Batcher(
            self._finish, batch_max=BATCH_MAX, queue_max=QUEUE_MAX, rivals=lambda result: (result.order_id,)
        )

    async def __call__(self, order_id: UUID) -> None:
        """Charge an order that may be charged now; otherwise do nothing.

        Raises:
            Unavailable: if Postgres is away; the order is due again by itself, under the same gateway key.
        """
        attempt = await self._beginning.submit(order_id)
        if attempt is None:
            log.debug("payment.skipped", order_id=str(order_id))
            return
        settings = self._settings
        if attempt.attempt > settings.tries_max:
            # Enough asked: make sure that the key can never be charged, unless it was.
            charge = await self._gateway.cancel(key=attempt.gateway_key, timeout_s=settings.timeout_s)
        else:
            charge = await self._gateway.charge(
                key=attempt.gateway_key, amount=attempt.amount, timeout_s=settings.timeout_s
            )
        status = await self._finishing.submit(
            PaymentResult(
                order_id=order_id,
                attempt=attempt.attempt,
                outcome=charge.outcome,
                reference=charge.reference,
                retry_after_s=min(settings.retry_s * 2 ** min(attempt.attempt - 1, 16), settings.retry_max_s),
            )
        )
        if status is None:
            log.warning("payment.superseded", order_id=str(order_id), attempt=attempt.attempt)
        elif charge.outcome is ChargeOutcome.UNKNOWN:
            log.warning("payment.unknown", order_id=str(order_id), attempt=attempt.attempt)
        else:
            log.debug("payment.finished", order_id=str(order_id), attempt=attempt.attempt, status=status)

    async def _begin(self, order_ids: list[UUID]) -> Sequence[PaymentAttempt | None]:
        attempts = await self._payments.begin(order_ids, due_s=self._payment_due_s)
        by_order = {attempt.order_id: attempt for attempt in attempts}
        return [by_order.get(order_id) for order_id in order_ids]

    async def _finish(self, results: list[PaymentResult]) -> Sequence[OrderStatus | None]:
        moved = await self._payments.finish(results)
        if not RELEASING.isdisjoint(moved.values()):
            self._return_units.soon()
        return [moved.get(result.order_id) for result in results]
