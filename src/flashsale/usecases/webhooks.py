"""Webhooks of the payment provider: stored on arrival, then handled by a job that asks the provider."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.intents import Effect
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payment_errors import ProviderNotFound, WebhookRefused
from flashsale.domain.payments import NoAnswer, NoAnswerKind
from flashsale.runtime.shared_metrics import Counter
from flashsale.runtime.tracing import CURRENT, join
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from flashsale.domain.payments import Intent, ProviderEvent
    from flashsale.settings.groups import PaymentSettings
    from flashsale.usecases.intents import Intents, WaitingEvent
    from flashsale.usecases.payment_ports import PaymentGateway
    from flashsale.usecases.settle_intent import SettleIntent

log = structlog.get_logger(__name__)

JOB_LOST_S = 30.0
"""Age at which the maintenance worker defers a new job for a webhook that was not handled."""

OF_REFUND = "refund"
"""Part of the types of webhooks that tell of refunds: `refund.failed`, `charge.refunded` and others."""

OF_PAYMENT = "payment_intent."
"""Prefix of webhook types without news once the order is paid; other types may concern refunds or disputes."""

BEING_CHARGED = frozenset({OrderStatus.PROCESSING_PAYMENT, OrderStatus.PAYMENT_UNKNOWN})
"""States of an order whose payment job may have opened an intent."""

WEBHOOKS = Counter(
    "flashsale_webhooks",
    "Webhooks of the payment provider: received, repeated, refused (signature, age, content), taken, foreign, archived "
    "(about an order that is in files only).",
    ["outcome"],
)
for _outcome in ("received", "repeated", "refused", "taken", "foreign", "archived"):
    WEBHOOKS.labels(_outcome)

_TEXT = re.compile(r"[!-~]{1,255}")


class ReceiveWebhook:
    """Checks the signature of a webhook and stores it with its job. The job reads the state from the provider."""

    def __init__(self, intents: Intents, gateway: PaymentGateway | None) -> None:
        """Receive webhooks of this provider; None: the provider of this deployment sends none."""
        self._intents = intents
        self._gateway = gateway

    async def __call__(self, provider: str, *, headers: Mapping[str, str], body: bytes) -> bool:
        """Store a webhook; False if it was received before. The webhook is durable when this returns.

        Raises:
            ProviderNotFound: if the webhook is for another provider.
            WebhookRefused: if it is not signed with our secret, is too old, or cannot be read; nothing was stored.
            Unavailable: if Postgres is away; the provider sends it again.
        """
        if self._gateway is None or provider != self._gateway.name:
            raise ProviderNotFound
        try:
            event = _checked(self._gateway.read_webhook(headers=headers, body=body))
        except WebhookRefused:
            WEBHOOKS.labels("refused").inc()
            raise
        fresh = await self._intents.receive(provider, event, due_s=JOB_LOST_S)
        WEBHOOKS.labels("received" if fresh else "repeated").inc()
        await _join_order(self._intents, provider, event.reference)
        log.debug("webhook.received", event_id=event.event_id, type=event.type, fresh=fresh)
        return fresh


def _checked(event: ProviderEvent) -> ProviderEvent:
    for text in (event.event_id, event.type, event.reference or "-"):
        if _TEXT.fullmatch(text) is None:
            raise WebhookRefused("The ids of an event are 1 to 255 printable ASCII characters.")
    return event


async def _join_order(intents: Intents, provider: str, reference: str | None) -> None:
    """Let the span that runs, if one does, become a part of the trace of the intent's order."""
    if reference is None or CURRENT.get(None) is None:
        return
    with contextlib.suppress(FlashSaleError, PoisonBatch):
        join((await intents.origin(provider, reference)).traceparent or "")


class Hook(Protocol):
    """Learns what the provider says of the intent of an order, in answer to webhooks."""

    async def __call__(self, order_id: UUID, intent: Intent, *, of_refunds: bool) -> None:
        """Take note of it; `of_refunds`: a webhook told of a refund."""
        ...


class TakeEvent:
    """Asks the provider about the intent of a webhook. Webhooks about one intent share the call."""

    def __init__(
        self,
        intents: Intents,
        gateway: PaymentGateway,
        settings: PaymentSettings,
        settle: SettleIntent,
        hooks: Sequence[Hook] = (),
    ) -> None:
        """Keep the parts; `hooks` are called for each look-up that found an order."""
        self._intents = intents
        self._gateway = gateway
        self._settings = settings
        self._settle = settle
        self._hooks = hooks

    async def __call__(self, provider: str, event_id: str) -> None:
        """Handle a webhook with all that wait about the same intent; does nothing if it was handled.

        Raises:
            Unavailable: if Postgres is away; the webhook gets a new job later.
        """
        if provider != self._gateway.name:
            return
        waiting = await self._intents.waiting(provider, event_id)
        if not waiting:
            return
        event_ids = [event.event_id for event in waiting]
        order_id = await self._without_news(provider, waiting)
        if order_id is None:
            intent = await self._gateway.look_up(
                order_id=None, reference=waiting[0].reference, timeout_s=self._settings.timeout_s
            )
            if isinstance(intent, NoAnswer) and intent.kind is not NoAnswerKind.REFUSED:
                after_s = max(self._settings.retry_s, intent.retry_after_s or 0.0)
                await self._intents.events_again(provider, event_ids, after_s=after_s)
                return
            if isinstance(intent, NoAnswer) and await self._intents.is_known(provider, waiting[0].reference):
                # It exists: the key is another account's, and the webhook may tell of a refund or a dispute.
                log.error("webhook.not_found", event_id=event_id, reference=waiting[0].reference, reason=intent.reason)
                await self._intents.events_again(provider, event_ids, after_s=self._settings.retry_max_s)
                return
            if isinstance(intent, NoAnswer) or intent.order_id is None:
                WEBHOOKS.labels("foreign").inc(len(waiting))
                log.warning("webhook.foreign", event_id=event_id, reference=waiting[0].reference)
            else:
                order_id = intent.order_id
                await self._merge(order_id, intent, of_refunds=any(OF_REFUND in one.type for one in waiting))
        await self._intents.taken(provider, event_ids, order_id)
        WEBHOOKS.labels("taken").inc(len(waiting))

    async def _without_news(self, provider: str, waiting: Sequence[WaitingEvent]) -> UUID | None:
        """Return the order of the webhooks if they cannot say anything new of it."""
        if not all(event.type.startswith(OF_PAYMENT) for event in waiting):
            return None
        await _join_order(self._intents, provider, waiting[0].reference)
        return await self._intents.settled(provider, waiting[0].reference)

    async def _merge(self, order_id: UUID, intent: Intent, *, of_refunds: bool) -> None:
        merged = await self._settle.merge(order_id, intent, due_s=self._settings.poll_s)
        if merged.effect is Effect.FOREIGN and await self._intents.is_archived(order_id):
            # What the provider says about money is compared by `flashsale reconcile payments`; a person decides.
            WEBHOOKS.labels("archived").inc()
            moved = {"refunded_minor": intent.refunded_minor, "disputed": intent.disputed}
            log.error("webhook.order_archived", order_id=str(order_id), reference=intent.reference, **moved)
            return
        for hook in self._hooks:
            await hook(order_id, intent, of_refunds=of_refunds)
        if merged.effect is Effect.UNWANTED and merged.number is not None:
            await self._settle(order_id, merged.number)
        elif merged.number is None and merged.status in BEING_CHARGED:
            # The charge may never hear of the intent that it opened: from now on it is named.
            await self._intents.note(order_id, self._gateway.name, intent.reference, due_s=self._settings.poll_s)
