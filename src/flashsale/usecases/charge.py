"""The payment job: one attempt at the gateway for one order, recorded before and after the call."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import structlog

from flashsale.domain.orders import RELEASING
from flashsale.domain.payments import ChargeOutcome, PaymentResult
from flashsale.runtime.logs import bind_origin
from flashsale.usecases.batching import Batcher
from flashsale.usecases.halving import halve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.orders import OrderStatus
    from flashsale.domain.payments import ChargeAnswer, PaymentAttempt
    from flashsale.settings.groups import PaymentSettings
    from flashsale.usecases.halving import Postpone
    from flashsale.usecases.intents import Intents
    from flashsale.usecases.payment_ports import PaymentGateway, Payments
    from flashsale.usecases.ports import PoisonBatch
    from flashsale.usecases.return_units import ReturnUnits
    from flashsale.usecases.turns import Turns

log = structlog.get_logger(__name__)

BATCH_MAX = 100
QUEUE_MAX = 10_000

BUSY_TRIES = 6
BUSY_PAUSE_S = 0.1
"""First pause before the next try to write an outcome, if another transaction holds the order; pauses double."""

RELEASING_OUTCOMES = frozenset({ChargeOutcome.DECLINED, ChargeOutcome.CANCELLED})


class Charge:
    """The use case. Concurrent payments share the transactions that record attempts and outcomes.

    An outcome that releases units waits for the lock of its product. Such outcomes share transactions only with
    outcomes of the same product, so the payments of other products do not wait.
    """

    def __init__(
        self,
        payments: Payments,
        gateway: PaymentGateway,
        settings: PaymentSettings,
        return_units: ReturnUnits,
        postpone: Postpone,
        *,
        payment_due_s: float,
        turns: Turns | None = None,
        intents: Intents | None = None,
    ) -> None:
        """An attempt whose worker dies is superseded after `payment_due_s`.

        `intents`: where intents are recorded that are known although the outcome of the charge is not.
        """
        self._turns = turns
        self._intents = intents
        self._payments = payments
        self._gateway = gateway
        self._settings = settings
        self._return_units = return_units
        self._postpone = postpone
        self._payment_due_s = payment_due_s
        self._beginning: Batcher[UUID, PaymentAttempt | None] = Batcher(
            self._begin, batch_max=BATCH_MAX, queue_max=QUEUE_MAX, rivals=lambda order_id: (order_id,)
        )
        self._announcing: Batcher[PaymentAttempt, bool] = Batcher(
            self._announce, batch_max=BATCH_MAX, queue_max=QUEUE_MAX, rivals=lambda attempt: (attempt.order_id,)
        )
        self._keeping = self._make_finishing()
        self._releasing: defaultdict[int, Batcher[PaymentResult, _Finished]] = defaultdict(self._make_finishing)

    async def __call__(self, order_id: UUID) -> None:
        """Charge an order that may be charged now; otherwise do nothing.

        Raises:
            Unavailable: if Postgres is away; the sweep wakes the order again, under the same gateway key.
        """
        if self._turns is not None and (pause_s := await self._turns.admit()) > 0:
            log.info("payment.put_off", order_id=str(order_id), pause_s=round(pause_s, 3))
            await self._turns.put_off(order_id, pause_s)
            return
        attempt = await self._beginning.submit(order_id)
        if attempt is None:
            log.debug("payment.skipped", order_id=str(order_id))
            return
        bind_origin(attempt.origin)
        # From here on the attempt counts as a try, because a worker that dies may have made the call. First attempts
        # are not marked: that may cost one more call, but saves a transaction for each payment.
        if attempt.attempt > 1 and not await self._announcing.submit(attempt):
            log.warning("payment.superseded", order_id=str(order_id), attempt=attempt.attempt)
            return
        settings = self._settings
        if attempt.tries >= settings.tries_max:
            # The tries are used up: make sure that the key can never be charged, unless the charge succeeded.
            charge = await self._gateway.cancel(
                order_id=order_id, reference=attempt.reference, amount=attempt.amount, timeout_s=settings.timeout_s
            )
        else:
            charge = await self._gateway.charge(
                order_id=order_id,
                reference=attempt.reference,
                amount=attempt.amount,
                timeout_s=settings.timeout_s,
                first=attempt.never_asked,
            )
        await self._note(attempt, charge)
        status = await self._write(
            attempt.product_id,
            PaymentResult(
                order_id=order_id,
                attempt=attempt.attempt,
                outcome=charge.outcome,
                reference=charge.reference,
                retry_after_s=self._retry_after_s(attempt, charge),
            ),
        )
        if status is None:
            log.warning("payment.superseded", order_id=str(order_id), attempt=attempt.attempt)
        elif charge.outcome is ChargeOutcome.UNKNOWN:
            log.warning("payment.unknown", order_id=str(order_id), attempt=attempt.attempt)
        elif charge.outcome is ChargeOutcome.UNSENT:
            log.warning("payment.unsent", order_id=str(order_id), attempt=attempt.attempt, reason=charge.reference)
        else:
            log.info("payment.finished", order_id=str(order_id), attempt=attempt.attempt, status=status)

    def _retry_after_s(self, attempt: PaymentAttempt, charge: ChargeAnswer) -> float:
        if charge.outcome is ChargeOutcome.UNSENT and charge.retry_after_s is not None:
            # The provider, or its budget, said when. A longer pause would leave turns unused.
            return charge.retry_after_s * (1 + random.random() / 2)  # noqa: S311 - spreads them
        pause_s: float = min(self._settings.retry_s * 2 ** min(attempt.attempt - 1, 16), self._settings.retry_max_s)
        return max(pause_s, charge.retry_after_s or 0.0)

    async def _note(self, attempt: PaymentAttempt, charge: ChargeAnswer) -> None:
        """Record the intent of a charge that is not decided.

        From then on the charge names the intent, a job looks it up, and it is cancelled if the order ends without it.
        """
        is_open = charge.outcome in (ChargeOutcome.UNKNOWN, ChargeOutcome.UNSENT)
        if self._intents is None or not is_open or charge.intent in (None, attempt.reference):
            return
        due_s = self._settings.poll_s
        await self._intents.note(attempt.order_id, self._gateway.name, charge.intent, due_s=due_s)

    async def _write(self, product_id: int, result: PaymentResult) -> OrderStatus | None:
        """Write an outcome. Returns the order's state; None if a later attempt exists or the row stays locked."""
        batcher = self._releasing[product_id] if result.outcome in RELEASING_OUTCOMES else self._keeping
        for number in range(BUSY_TRIES):
            finished = await batcher.submit(result)
            if not finished.busy:
                return finished.status
            await asyncio.sleep(BUSY_PAUSE_S * 2**number)
        return None

    def _make_finishing(self) -> Batcher[PaymentResult, _Finished]:
        return Batcher(self._finish, batch_max=BATCH_MAX, queue_max=QUEUE_MAX, rivals=lambda result: (result.order_id,))

    async def _begin(self, order_ids: list[UUID]) -> Sequence[PaymentAttempt | None]:
        async def begin(order_ids: Sequence[UUID]) -> Sequence[PaymentAttempt]:
            return await self._payments.begin(order_ids, due_s=self._payment_due_s)

        async def refused(order_id: UUID, poison: PoisonBatch) -> None:
            await self._postpone(order_id, poison, job="begin")

        attempts = [attempt for part in await halve(order_ids, begin, refused) for attempt in part]
        by_order = {attempt.order_id: attempt for attempt in attempts}
        return [by_order.get(order_id) for order_id in order_ids]

    async def _announce(self, attempts: list[PaymentAttempt]) -> Sequence[bool]:
        async def refused(attempt: PaymentAttempt, poison: PoisonBatch) -> None:
            await self._postpone(attempt.order_id, poison, job="announce")

        parts = await halve(attempts, self._payments.announce, refused)
        is_open = {order_id for part in parts for order_id in part}
        return [attempt.order_id in is_open for attempt in attempts]

    async def _finish(self, results: list[PaymentResult]) -> Sequence[_Finished]:
        async def refused(result: PaymentResult, poison: PoisonBatch) -> None:
            await self._postpone(result.order_id, poison, job="finish")

        moved: dict[UUID, OrderStatus | None] = {}
        for part in await halve(results, self._payments.finish, refused):
            moved |= part
        if not RELEASING.isdisjoint(moved.values()):
            self._return_units.soon()
        return [
            _Finished(
                status=moved.get(result.order_id),
                busy=result.order_id in moved and moved[result.order_id] is None,
            )
            for result in results
        ]


class _Finished(NamedTuple):
    """The result of writing an outcome; `busy`: another transaction holds the order's row, so nothing was written."""

    status: OrderStatus | None
    busy: bool
