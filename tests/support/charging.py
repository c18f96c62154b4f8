"""Charge orders against a gateway that a test steers."""

import asyncio

from flashsale.adapters.postgres.intents import PostgresIntents
from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.domain.payments import ChargeAnswer as Answer
from flashsale.domain.users import Principal, Role
from flashsale.usecases.charge import Charge
from flashsale.usecases.halving import Postpone
from flashsale.usecases.return_units import ReturnUnits
from tests.conftest import add_buyers, add_product
from tests.support.accepting import accept_one


class Gateway:
    """A gateway of our own port: answers what it is told, and notes what it was asked."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.asked = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def charge(self, *, order_id, reference, amount, timeout_s, first):
        self.asked.append(("charge", str(order_id)))
        await self.gate.wait()
        return Answer(outcome=self.outcomes.pop(0), reference="r")

    async def cancel(self, *, order_id, reference, amount, timeout_s):
        self.asked.append(("cancel", str(order_id)))
        return Answer(outcome=self.outcomes.pop(0), reference="r")


def charging(services, gateway, **changes):
    payments = services.settings.payments.model_copy(update=changes)
    returning = ReturnUnits(services.books, services.gate, limit=100)
    postpone = Postpone(services.order_rows, pause_s=1, pause_max_s=1)
    return Charge(
        PostgresPayments(services.database),
        gateway,
        payments,
        returning,
        postpone,
        payment_due_s=30,
        intents=PostgresIntents(services.database),
    )


async def waiting_order(services, **product):
    made = await add_product(services, **product)
    user = (await add_buyers(services, 1))[0]
    order_id = await accept_one(services, made, user)
    await services.order_rows.process([order_id], payment_due_s=30)
    return order_id, Principal(user_id=user, role=Role.BUYER)


async def status(services, order_id):
    return (await services.order_rows.get_many([order_id]))[order_id].status


async def free(db):
    return await db.fetchval("SELECT free FROM product_live")
