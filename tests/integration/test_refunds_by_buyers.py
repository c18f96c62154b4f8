"""Buyers ask for the money of their own orders back, where the product allows it: all of it, once."""

import asyncio
import uuid

import pytest

from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.domain import errors, payment_errors
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.usecases.refund import RequestRefund
from tests.support.charging import Gateway, charging, free, waiting_order
from tests.support.refunding import Provider, refunding, requesting

S = OrderStatus
SECOND = uuid.UUID(int=8)


async def rows(db):
    tables = ("orders", "order_events", "refunds", "procrastinate_jobs")
    return [await db.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


@pytest.mark.parametrize("offered", [True, False])
async def test_a_buyer_gets_the_money_of_an_own_order_back_where_the_product_allows_it(services, db, offered):
    order_id, buyer = await waiting_order(services, refundable_by_buyer=offered)
    refund = RequestRefund(PostgresRefunds(services.database), services.order_rows, due_s=30)
    before = await rows(db)
    with pytest.raises(errors.OrderNotFound):
        await refund.by_buyer(order_id, SECOND)
    with pytest.raises(errors.OrderNotFound):
        await refund.by_buyer(uuid.uuid4(), buyer.user_id)
    with pytest.raises(errors.StateForbids if offered else payment_errors.RefundNotOffered):
        await refund.by_buyer(order_id, buyer.user_id)
    assert await rows(db) == before
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    if not offered:
        with pytest.raises(payment_errors.RefundNotOffered):
            await refund.by_buyer(order_id, buyer.user_id)
        return
    await db.execute("UPDATE orders SET disputed = true")
    with pytest.raises(payment_errors.OrderDisputed):
        await refund.by_buyer(order_id, buyer.user_id)
    await db.execute("UPDATE orders SET disputed = false")
    orders = await asyncio.gather(*(refund.by_buyer(order_id, buyer.user_id) for _ in range(4)))
    assert {order.status for order in orders} == {S.REFUND_PENDING}
    assert await db.fetchval("SELECT count(*) FROM refunds") == 1
    await refunding(services, Provider())(order_id)
    again = await refund.by_buyer(order_id, buyer.user_id)
    assert (again.status, again.refunded_minor, await free(db)) == (S.REFUNDED, 99_999, 10)
    assert await db.fetchval("SELECT count(*) FROM refunds") == 1


async def test_a_buyer_gets_what_is_left_after_a_part_and_nothing_after_an_administrators_refund(services, db):
    refund = RequestRefund(PostgresRefunds(services.database), services.order_rows, due_s=30)
    order_id, buyer = await waiting_order(services, refundable_by_buyer=True)
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    await requesting(services)(order_id, "300.00")
    with pytest.raises(payment_errors.RefundUnderWay):
        await refund.by_buyer(order_id, buyer.user_id)
    await refunding(services, Provider())(order_id)
    await refund.by_buyer(order_id, buyer.user_id)
    await refunding(services, Provider())(order_id)
    assert [row[0] for row in await db.fetch("SELECT amount_minor FROM refunds ORDER BY number")] == [30_000, 69_999]
    whole, other = await waiting_order(services, refundable_by_buyer=True)
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(whole)
    await requesting(services)(whole)
    with pytest.raises(payment_errors.RefundUnderWay):
        await refund.by_buyer(whole, other.user_id)
    await refunding(services, Provider())(whole)
    with pytest.raises(errors.StateForbids, match="refunded"):
        await refund.by_buyer(whole, other.user_id)
