"""Settle the intent that a payment provider holds for an order: capture it in time, else cancel or refund it once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.intents import Effect, KnownState
from flashsale.domain.payments import ChargeOutcome, Intent, IntentState, NoAnswer, NoAnswerKind, RefundState
from flashsale.runtime.logs import bind_origin
from flashsale.usecases.intents import INTENTS, RETRY_MAX_S
from flashsale.usecases.refund import late_key

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.intents import DueIntent, Merged
    from flashsale.domain.payments import ChargeAnswer
    from flashsale.settings.groups import PaymentSettings
    from flashsale.usecases.intents import Intents
    from flashsale.usecases.payment_ports import PaymentGateway

log = structlog.get_logger(__name__)

STEPS_MAX = 4
"""Maximum number of steps in one run: found by its key, looked at, cancelled, refunded."""


class SettleIntent:
    """The use case: one call after another, until the intent can change no more or has to wait.

    An order that ended stays in its state. Its units may belong to another buyer by now, so money that comes later is
    cancelled or refunded (ADR 30).
    """

    def __init__(self, intents: Intents, gateway: PaymentGateway, settings: PaymentSettings) -> None:
        """Wire it."""
        self._intents = intents
        self._gateway = gateway
        self._settings = settings

    async def __call__(self, order_id: UUID, number: int) -> None:
        """Take the steps that are possible now.

        Raises:
            Unavailable: if Postgres is away; the intent gets a new job later.
        """
        for _ in range(STEPS_MAX):
            due = await self._intents.held(order_id, number)
            if due is None or due.provider != self._gateway.name or not await self._step(order_id, due):
                return

    async def merge(self, order_id: UUID, intent: Intent, *, due_s: float) -> Merged:
        """Write the provider's state, and log what a person must look at."""
        merged = await self._intents.merge(order_id, self._gateway.name, intent, due_s=due_s)
        bind_origin(merged.origin)
        more = {"order_id": str(order_id), "reference": intent.reference, "status": merged.status}
        if merged.effect is Effect.DIFFERS:
            INTENTS.labels("differs").inc()
            log.error("intent.differs", amount_minor=intent.amount.minor, currency=intent.amount.currency, **more)
        elif merged.effect in (Effect.REQUESTED, Effect.CONFIRMED):
            INTENTS.labels(merged.effect.value).inc()
            log.info("intent.held" if merged.effect is Effect.REQUESTED else "intent.captured", **more)
        return merged

    async def _step(self, order_id: UUID, due: DueIntent) -> bool:
        """Take one step; True if the next step can follow at once."""
        if due.reference is None:
            if due.unwanted:
                return await self._find(order_id, due)
            # The buyer's next request opens the intent.
            await self._again(order_id, due)
            return False
        if not due.unwanted or due.state is KnownState.CAPTURED:
            intent = await self._gateway.look_up(
                order_id=order_id, reference=due.reference, timeout_s=self._settings.timeout_s
            )
            if isinstance(intent, NoAnswer):
                await self._again(order_id, due, intent)
                return False
            pause_s = min(self._settings.poll_s * 2 ** min(due.looks, 16), RETRY_MAX_S)
            merged = await self.merge(order_id, intent, due_s=pause_s)
            if due.unwanted and merged.state is KnownState.CAPTURED:
                return await self._give_back(order_id, due, intent)
            return merged.effect is Effect.UNWANTED and not due.unwanted
        return await self._cancel(order_id, due, due.reference)

    async def _find(self, order_id: UUID, due: DueIntent) -> bool:
        """Repeat the opening under the same key, if its answer was lost, to learn the reference to cancel."""
        answer = await self._gateway.open_intent(
            order_id=order_id,
            number=due.number,
            amount=due.amount,
            timeout_s=self._settings.timeout_s,
            terms=due.terms,
        )
        if isinstance(answer, NoAnswer):
            await self._again(order_id, due, answer)
            return False
        await self._intents.open(order_id, due.number, answer, due_s=self._settings.retry_s)
        return True

    async def _cancel(self, order_id: UUID, due: DueIntent, reference: str) -> bool:
        answer = await self._gateway.cancel(order_id=order_id, reference=reference, timeout_s=self._settings.timeout_s)
        if answer.outcome in (ChargeOutcome.UNKNOWN, ChargeOutcome.UNSENT):
            await self._again(order_id, due, answer)
            return False
        captured = answer.outcome is ChargeOutcome.CAPTURED
        state = IntentState.CAPTURED if captured else IntentState.CANCELLED
        await self.merge(order_id, _as_intent(order_id, due, reference, state), due_s=self._settings.retry_s)
        if not captured:
            INTENTS.labels("voided").inc()
            log.info("intent.voided", order_id=str(order_id), reference=reference, state=due.state.value)
        return captured

    async def _give_back(self, order_id: UUID, due: DueIntent, intent: Intent) -> bool:
        left = replace(intent.amount, minor=intent.amount.minor - intent.refunded_minor)
        refund = await self._gateway.refund(
            key=late_key(order_id, due.number),
            reference=intent.reference,
            amount=left,
            timeout_s=self._settings.timeout_s,
        )
        if isinstance(refund, NoAnswer) and refund.kind is not NoAnswerKind.REFUSED:
            await self._again(order_id, due, refund)
        elif isinstance(refund, NoAnswer) or refund.state is RefundState.FAILED:
            INTENTS.labels("refund_failed").inc()
            log.error("intent.not_refunded", order_id=str(order_id), reference=intent.reference, reason=refund.reason)
            await self._intents.refused(order_id, due.number, after_s=RETRY_MAX_S)
        elif refund.state is RefundState.PENDING:
            await self._again(order_id, due)
        else:
            whole = replace(intent, refunded_minor=intent.amount.minor)
            await self.merge(order_id, whole, due_s=self._settings.retry_s)
            INTENTS.labels("refunded").inc()
            log.info("intent.refunded", order_id=str(order_id), reference=intent.reference, amount_minor=left.minor)
        return False

    async def _again(self, order_id: UUID, due: DueIntent, answer: NoAnswer | ChargeAnswer | None = None) -> None:
        pause_s = min(self._settings.retry_s * 2 ** min(due.looks, 16), RETRY_MAX_S)
        asked_s = (answer.retry_after_s or 0.0) if answer is not None else 0.0
        await self._intents.again(order_id, due.number, after_s=max(pause_s, asked_s))


def _as_intent(order_id: UUID, due: DueIntent, reference: str, state: IntentState) -> Intent:
    """Convert the answer of a call to the state of the intent."""
    return Intent(
        reference=reference,
        order_id=order_id,
        state=state,
        amount=due.amount,
        refunded_minor=0,
        disputed=False,
        client_secret=None,
        page_url=None,
        decline_code=None,
        created_at=datetime.now(UTC),
    )
