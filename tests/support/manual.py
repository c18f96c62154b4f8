"""An operator who records money of the provider `manual`, and what reads the book."""

from __future__ import annotations

import uuid

from flashsale.adapters.payments.manual import ManualGateway
from flashsale.adapters.postgres.manual import PostgresManualBook
from flashsale.domain.products import PaymentMode
from flashsale.usecases.record_money import RecordMoney
from tests.support.charging import charging, waiting_order

OPERATOR = uuid.UUID(int=7)
PRICE = "999.99"


def recording(services, *, provider="manual"):
    """Make the use cases of an operator."""
    return RecordMoney(PostgresManualBook(services.database), provider=provider, due_s=30)


def gateway(services):
    return ManualGateway(PostgresManualBook(services.database))


async def unpaid(services, **product):
    """An order that waits for its buyer, and the buyer."""
    return await waiting_order(services, payment_mode=PaymentMode.BY_BUYER, **product)


async def paid(services, **product):
    """An order whose payment an operator recorded and a worker took."""
    order_id, buyer = await unpaid(services, **product)
    await record(services, order_id)
    await charging(services, gateway(services))(order_id)
    return order_id, buyer


async def record(services, order_id, reference="t-1", *, amount=PRICE, currency="USD", by=OPERATOR, key=None):
    return await recording(services).payment(
        order_id, reference=reference, amount=amount, currency=currency, recorded_by=by, request=key
    )
