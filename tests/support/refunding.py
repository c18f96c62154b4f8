"""Refund orders against a provider that a test steers."""

import asyncio
import uuid

from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.domain.payment_errors import NotSupported
from flashsale.domain.payments import ChargeOutcome, NoAnswer, NoAnswerKind, Refund, RefundState
from flashsale.usecases.refund import MakeRefund, RequestRefund
from flashsale.usecases.return_units import ReturnUnits
from tests.support.charging import Gateway, charging, waiting_order

ADMIN = uuid.UUID(int=7)


class Provider:
    """A provider of our own port: refunds once per key, and loses the replies that it is told to."""

    name = "test"

    def __init__(self, *replies):
        self.replies = list(replies)
        self.made = {}
        self.asked = []
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.disputed = None

    async def look_up(self, *, order_id, reference=None, timeout_s):
        if self.disputed is None:
            raise NotSupported(provider=self.name, call="look_up")
        return self.disputed

    async def refund(self, *, key, reference, amount, timeout_s):
        self.asked.append(key)
        reply = self.replies.pop(0) if self.replies else RefundState.SUCCEEDED
        if reply in {NoAnswerKind.UNSENT, NoAnswerKind.REFUSED}:
            return NoAnswer(kind=reply, reason=f"said {reply}")
        state = RefundState.SUCCEEDED if reply is NoAnswerKind.UNKNOWN else reply
        self.made[key] = Refund(
            reference=f"re_{key}", key=key, intent=reference, state=state, amount=amount, reason=None
        )
        self.reached.set()
        await self.go_on.wait()
        return NoAnswer(kind=reply, reason="lost") if reply is NoAnswerKind.UNKNOWN else self.made[key]

    async def refunds(self, *, reference, timeout_s):
        return list(self.made.values())


async def paid_order(services, *, quantity=1, **product):
    order_id, principal = await waiting_order(services, **product)
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    return order_id, principal


def requesting(services):
    """Make a function that asks for a refund as an administrator does."""
    request = RequestRefund(PostgresRefunds(services.database), services.order_rows, due_s=30)

    async def ask(order_id, amount=None, *, restock=False, reason="broken", key=None):
        return await request(order_id, amount=amount, restock=restock, reason=reason, requested_by=ADMIN, request=key)

    return ask


def refunding(services, provider):
    """Make the refund job."""
    returning = ReturnUnits(services.books, services.gate, limit=100)
    settings = services.settings.payments
    return MakeRefund(PostgresRefunds(services.database), provider, settings, returning, due_s=30)


async def order_of(services, order_id):
    return (await services.order_rows.get_many([order_id]))[order_id]
