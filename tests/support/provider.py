"""A payment provider of our own port that holds intents, and the use cases over it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flashsale.adapters.postgres.intents import PostgresIntents
from flashsale.domain.money import Money
from flashsale.domain.payment_errors import WebhookRefused
from flashsale.domain.payments import (
    ChargeAnswer,
    ChargeOutcome,
    Intent,
    IntentState,
    NoAnswer,
    NoAnswerKind,
    ProviderEvent,
    Refund,
    RefundState,
)
from flashsale.usecases.open_intent import OpenIntent
from flashsale.usecases.settle_intent import SettleIntent
from flashsale.usecases.webhooks import ReceiveWebhook, TakeEvent

NAME = "stripe"


class Provider:
    """Holds an intent per key; the buyer's bank acts through `authorize` and `capture`."""

    name = NAME

    def __init__(self):
        self.held: dict[str, Intent] = {}
        self.keys: dict[str, str] = {}
        self.refunds: dict[str, Refund] = {}
        self.asked: list[str] = []
        self.silent: list[NoAnswerKind | None] = []
        """What the next calls come to instead of an answer; they are carried out if it is UNKNOWN."""

    def _absent(self):
        return self.silent.pop(0) if self.silent else None

    async def open_intent(self, *, order_id, number, amount, timeout_s, **_):
        self.asked.append("open")
        kind = self._absent()
        if kind in (None, NoAnswerKind.UNKNOWN):
            key = f"{order_id}:create:{number}"
            reference = self.keys.setdefault(key, f"pi_{len(self.keys)}_{order_id}")
            self.held.setdefault(
                reference,
                Intent(
                    reference=reference, order_id=order_id, state=IntentState.OPEN, amount=amount, refunded_minor=0,
                    disputed=False, client_secret=f"{reference}_secret", page_url=None, decline_code=None,
                    created_at=datetime.now(UTC),
                ),
            )  # fmt: skip
        return self.held[reference] if kind is None else NoAnswer(kind=kind, reason="test", retry_after_s=None)

    async def look_up(self, *, order_id, reference=None, timeout_s):
        self.asked.append("look_up")
        if kind := self._absent():
            return NoAnswer(kind=kind, reason="test")
        return self.held.get(reference) or NoAnswer(kind=NoAnswerKind.REFUSED, reason="not found")

    async def charge(self, *, order_id, reference=None, amount, timeout_s, **_):
        self.asked.append("charge")
        kind = self._absent()
        if kind is None or kind is NoAnswerKind.UNKNOWN:
            self.capture(reference)
        outcome = ChargeOutcome.CAPTURED if kind is None else ChargeOutcome(kind.value)
        return ChargeAnswer(outcome=outcome, reference=reference, intent=reference)

    async def cancel(self, *, order_id, reference=None, timeout_s, **_):
        self.asked.append("cancel")
        if kind := self._absent():
            return ChargeAnswer(outcome=ChargeOutcome(kind.value), reference=None)
        if self.held[reference].state is not IntentState.CAPTURED:
            self.held[reference] = replace(self.held[reference], state=IntentState.CANCELLED)
        captured = self.held[reference].state is IntentState.CAPTURED
        return ChargeAnswer(
            outcome=ChargeOutcome.CAPTURED if captured else ChargeOutcome.CANCELLED, reference=reference
        )

    async def refund(self, *, key, reference, amount, timeout_s):
        self.asked.append("refund")
        kind = self._absent()
        if kind in (None, NoAnswerKind.UNKNOWN) and key not in self.refunds:
            held = self.held[reference]
            assert held.refunded_minor + amount.minor <= held.amount.minor, "given back more than was taken"
            self.held[reference] = replace(held, refunded_minor=held.refunded_minor + amount.minor)
            self.refunds[key] = Refund(
                reference=f"re_{key}",
                key=key,
                intent=reference,
                state=RefundState.SUCCEEDED,
                amount=amount,
                reason=None,
            )
        return self.refunds[key] if kind is None else NoAnswer(kind=kind, reason="test")

    def read_webhook(self, *, headers, body):
        if headers.get("stripe-signature") != "valid":
            raise WebhookRefused("The signature does not hold.")
        event = json.loads(body)
        return ProviderEvent(
            event_id=event["id"], type=event["type"], reference=event["reference"], created_at=datetime.now(UTC)
        )

    def authorize(self, reference):
        """The buyer pays; False if the provider refuses it, because the intent was cancelled."""
        return self._move(reference, IntentState.AUTHORIZED, frozenset({IntentState.OPEN}))

    def capture(self, reference):
        return self._move(reference, IntentState.CAPTURED, frozenset({IntentState.OPEN, IntentState.AUTHORIZED}))

    def _move(self, reference, state, allowed):
        if self.held[reference].state in allowed:
            self.held[reference] = replace(self.held[reference], state=state)
        return self.held[reference].state is state

    def change(self, reference, **changes):
        self.held[reference] = replace(self.held[reference], **changes)


@dataclass
class Paying:
    """A provider, and what asks it."""

    provider: Provider
    intents: PostgresIntents
    open: OpenIntent
    settle: SettleIntent
    receive: ReceiveWebhook
    take: TakeEvent

    async def webhook(self, event_id, reference, kind="payment_intent.amount_capturable_updated"):
        """Receive a webhook; returns whether it is new."""
        body = json.dumps({"id": event_id, "type": kind, "reference": reference}).encode()
        return await self.receive(NAME, headers={"stripe-signature": "valid"}, body=body)

    async def tell(self, event_id, reference, **more):
        """Receive a webhook and run its job."""
        await self.webhook(event_id, reference, **more)
        await self.take(NAME, event_id)

    async def settle_all(self, db):
        """Run the job of every intent that is due, until none is."""
        for _ in range(20):
            rows = await db.fetch("SELECT order_id, number FROM payment_intents WHERE due_at <= clock_timestamp()")
            if not rows:
                return
            for row in rows:
                await self.settle(row["order_id"], row["number"])


def paying(services, provider=None, **changes) -> Paying:
    provider = provider or Provider()
    intents = PostgresIntents(services.database)
    settings = services.settings.payments.model_copy(update=changes)
    settle = SettleIntent(intents, provider, settings)
    return Paying(
        provider=provider,
        intents=intents,
        open=OpenIntent(intents, provider, settings),
        settle=settle,
        receive=ReceiveWebhook(intents, provider),
        take=TakeEvent(intents, provider, settings, settle),
    )


def other_amount(minor):
    return Money(minor=minor, currency="USD")
