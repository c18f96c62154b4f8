"""A buyer asks to pay: open one intent at the payment provider, however often the buyer asks."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import Unavailable
from flashsale.domain.intents import KnownIntent, KnownState
from flashsale.domain.payments import NoAnswer, NoAnswerKind
from flashsale.runtime.tracing import join
from flashsale.usecases.intents import INTENTS

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.intents import BegunIntent
    from flashsale.settings.groups import PaymentSettings
    from flashsale.usecases.intents import Intents
    from flashsale.usecases.payment_ports import PaymentGateway

log = structlog.get_logger(__name__)

TRIES = 3
"""How often one request asks the provider; another request may be opening the same intent."""

PAUSE_S = 0.3
SOON_S = 1.0
"""Maximum wait within a request; for a longer wait the buyer asks again."""

LEFT_S = 30.0
"""Age at which a job looks at an intent that is still being opened, because this process may have ended."""

WAIT_MAX_S = 300.0
"""How long the wait for the provider may prolong the buyer's time."""


class OpenIntent:
    """The use case. The row of the intent is committed before the call, and the call uses the key of the row."""

    def __init__(self, intents: Intents, gateway: PaymentGateway, settings: PaymentSettings) -> None:
        """Wire it."""
        self._intents = intents
        self._gateway = gateway
        self._settings = settings

    async def __call__(self, order_id: UUID) -> KnownIntent | None:
        """Return what the page needs to pay; None if the order does not wait for its buyer, or the time is over.

        Raises:
            Unavailable: if the provider does not open the intent now; the buyer asks again, and loses no time.
        """
        retry_after_s = SOON_S
        for _ in range(TRIES):
            begun = await self._intents.begin(order_id, self._gateway.name, due_s=LEFT_S)
            if begun is None:
                return None
            join(begun.origin.traceparent or "")
            intent = begun.intent
            if intent.state is not KnownState.OPENING:
                return _checked(intent, order_id)
            found = await self._ask(order_id, begun)
            if isinstance(found, KnownIntent):
                return _checked(found, order_id)
            retry_after_s = found
            if retry_after_s > SOON_S:
                break
            await asyncio.sleep(PAUSE_S)
        raise Unavailable(
            "The payment provider takes no payment just now; send the same request again.",
            retry_after_s=max(1, math.ceil(retry_after_s)),
        )

    async def _ask(self, order_id: UUID, begun: BegunIntent) -> KnownIntent | float:
        """Open the intent at the provider. Returns the intent, or after how many seconds to ask again."""
        settings, number = self._settings, begun.intent.number
        answer = await self._gateway.open_intent(
            order_id=order_id, number=number, amount=begun.amount, timeout_s=settings.timeout_s, terms=begun.terms
        )
        if not isinstance(answer, NoAnswer):
            opened = await self._intents.open(order_id, number, answer, due_s=settings.poll_s)
            # Another request gave the intent up meanwhile, or found it under another reference.
            return SOON_S if opened is None or opened.state is KnownState.LOST else opened
        wait_s = answer.retry_after_s or SOON_S
        if answer.kind is NoAnswerKind.UNKNOWN:
            await self._intents.lose(order_id, number)
            INTENTS.labels("lost").inc()
            log.warning("intent.lost", order_id=str(order_id), number=number, reason=answer.reason)
        else:
            level = log.error if answer.kind is NoAnswerKind.REFUSED else log.info
            level("intent.not_opened", order_id=str(order_id), number=number, reason=answer.reason)
            await self._intents.wait(order_id, number, longest_s=WAIT_MAX_S, retry_after_s=min(wait_s, WAIT_MAX_S))
        return wait_s


def _checked(intent: KnownIntent, order_id: UUID) -> KnownIntent:
    if intent.differs:
        log.error("intent.differs", order_id=str(order_id), reference=intent.reference)
        raise Unavailable("The payment provider holds another amount than the order's; support has been told.")
    return intent
