import asyncio

import pytest

from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.domain.errors import StateForbids
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome, PaymentResult
from flashsale.domain.products import PaymentMode
from tests.conftest import sweep
from tests.support.charging import Gateway, charging, free, status, waiting_order

S = OrderStatus


@pytest.mark.parametrize(
    ("outcome", "after", "units"),
    [
        (ChargeOutcome.CAPTURED, S.CONFIRMED, 9),
        (ChargeOutcome.DECLINED, S.PAYMENT_FAILED, 10),
        (ChargeOutcome.CANCELLED, S.PAYMENT_FAILED, 10),
        (ChargeOutcome.UNKNOWN, S.PAYMENT_UNKNOWN, 9),
    ],
)
async def test_what_the_gateway_says_decides_where_the_order_goes_and_whether_its_units_go_back(
    services, db, outcome, after, units
):
    order_id, _ = await waiting_order(services)
    await charging(services, Gateway(outcome))(order_id)
    assert await status(services, order_id) is after
    assert await free(db) == units


async def test_an_unknown_outcome_is_asked_for_under_the_same_key(services):
    order_id, _ = await waiting_order(services)
    gateway = Gateway(ChargeOutcome.UNKNOWN, ChargeOutcome.UNKNOWN, ChargeOutcome.CAPTURED)
    charge = charging(services, gateway)
    for _ in range(3):
        await charge(order_id)
    assert await status(services, order_id) is S.CONFIRMED
    assert gateway.asked == [("charge", str(order_id))] * 3


async def test_after_enough_silence_the_key_is_cancelled_and_a_capture_that_was_first_counts(services):
    order_id, _ = await waiting_order(services)
    gateway = Gateway(ChargeOutcome.UNKNOWN, ChargeOutcome.UNKNOWN, ChargeOutcome.CAPTURED)
    charge = charging(services, gateway, tries_max=2)
    for _ in range(3):
        await charge(order_id)
    assert gateway.asked[-1] == ("cancel", str(order_id))
    assert await status(services, order_id) is S.CONFIRMED


async def test_a_superseded_worker_changes_nothing(services, db):
    order_id, _ = await waiting_order(services)
    zombie = Gateway(ChargeOutcome.DECLINED)
    zombie.gate.clear()
    sleeping = asyncio.create_task(charging(services, zombie)(order_id))
    while not zombie.asked:
        await asyncio.sleep(0.01)
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    zombie.gate.set()
    await sleeping
    assert await status(services, order_id) is S.CONFIRMED
    assert await free(db) == 9
    outcomes = await db.fetch("SELECT outcome FROM payment_attempts ORDER BY attempt")
    assert [row[0] for row in outcomes] == ["superseded", "captured"]


async def test_a_superseded_worker_changes_nothing_while_the_new_attempt_is_open(services, db):
    order_id, _ = await waiting_order(services)
    zombie, successor = Gateway(ChargeOutcome.DECLINED), Gateway(ChargeOutcome.CAPTURED)
    running = []
    for gateway in (zombie, successor):
        gateway.gate.clear()
        running.append(asyncio.create_task(charging(services, gateway)(order_id)))
        while not gateway.asked:
            await asyncio.sleep(0.01)
    zombie.gate.set()
    await running[0]
    assert await status(services, order_id) is S.PROCESSING_PAYMENT
    assert await free(db) == 9
    successor.gate.set()
    await running[1]
    assert await status(services, order_id) is S.CONFIRMED


async def test_an_attempt_is_committed_before_the_gateway_is_called(services, db):
    order_id, _ = await waiting_order(services)
    gateway = Gateway(ChargeOutcome.CAPTURED)
    gateway.gate.clear()
    charging_task = asyncio.create_task(charging(services, gateway)(order_id))
    while not gateway.asked:
        await asyncio.sleep(0.01)
    assert await db.fetchval("SELECT count(*) FROM payment_attempts WHERE outcome IS NULL") == 1
    assert await status(services, order_id) is S.PROCESSING_PAYMENT
    gateway.gate.set()
    await charging_task


async def test_a_finished_order_is_not_charged_again(services):
    order_id, _ = await waiting_order(services)
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    gateway = Gateway()
    await charging(services, gateway)(order_id)
    assert gateway.asked == []


async def test_an_outcome_counts_once(services, db):
    order_id, _ = await waiting_order(services)
    payments = PostgresPayments(services.database)
    [attempt] = await payments.begin([order_id], due_s=30)
    result = PaymentResult(
        order_id=order_id, attempt=attempt.attempt, outcome=ChargeOutcome.DECLINED, reference=None, retry_after_s=1
    )
    moved = await asyncio.gather(*(payments.finish([result]) for _ in range(5)))
    statuses = [one.get(order_id) for one in moved]
    assert sorted(status for status in statuses if status is not None) == [S.PAYMENT_FAILED], "the others find it busy"
    assert await free(db) == 10


async def test_a_buyer_pays_once_and_then_can_neither_cancel_nor_expire(services, db):
    order_id, buyer = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER)
    gateway = Gateway(ChargeOutcome.CAPTURED)
    await charging(services, gateway)(order_id)
    assert gateway.asked == [], "nobody charges before the buyer pays"
    orders = await asyncio.gather(*(services.orders.pay(order_id, buyer) for _ in range(3)))
    assert {order.status for order, _ in orders} == {S.AWAITING_PAYMENT}
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE queue_name = 'payments'") == 1
    with pytest.raises(StateForbids):
        await services.orders.cancel(order_id, buyer)
    await db.execute("UPDATE orders SET due_at = now() - interval '1 minute'")
    await sweep(services)
    await charging(services, gateway)(order_id)
    assert await status(services, order_id) is S.CONFIRMED
    with pytest.raises(StateForbids):
        await services.orders.pay(order_id, buyer)


async def test_a_cancelled_order_gives_its_units_back_once(services, db):
    order_id, buyer = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER)
    orders = await asyncio.gather(*(services.orders.cancel(order_id, buyer) for _ in range(5)))
    assert {order.status for order in orders} == {S.CANCELLED}
    assert await free(db) == 10
    with pytest.raises(StateForbids):
        await services.orders.pay(order_id, buyer)


async def test_paying_and_expiring_at_once_has_one_winner(services, db):
    for _ in range(5):
        order_id, buyer = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER, payment_window_s=1)
        await db.execute("UPDATE orders SET due_at = clock_timestamp() + interval '5 ms' WHERE order_id = $1", order_id)
        both = await asyncio.gather(services.orders.pay(order_id, buyer), sweep(services), return_exceptions=True)
        await asyncio.sleep(0.01)
        await sweep(services)
        expected = S.EXPIRED if isinstance(both[0], StateForbids) else S.AWAITING_PAYMENT
        assert await status(services, order_id) is expected
