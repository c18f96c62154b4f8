"""The provider `manual`: an operator records money, once, whatever races it, and the audit compares the book."""

import asyncio
import uuid

import asyncpg
import pytest

from flashsale.adapters.postgres.queries import Query
from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.adapters.postgres.settlement import PostgresSettledOrders
from flashsale.domain import errors, payment_errors
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.requests import AdminRequest
from flashsale.usecases.orders import BuyerOrders
from flashsale.usecases.return_units import ReturnUnits
from flashsale.usecases.settle import Settle
from tests.conftest import ROOT, sweep
from tests.support.charging import Gateway, charging, free, status, waiting_order
from tests.support.manual import OPERATOR, gateway, paid, record, recording, unpaid
from tests.support.refunding import order_of, refunding, requesting

S = OrderStatus
SECOND = uuid.UUID(int=8)


async def everything(db):
    tables = ("orders", "order_events", "manual_entries", "payment_attempts", "refunds", "units", "procrastinate_jobs")
    return [await db.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


async def differences(services):
    """What the settlement finds between orders and book, as causes."""
    settle = Settle(PostgresSettledOrders(services.database), gateway(services))
    now = await services.database.fetch_row(
        Query(name="now", description="", text="SELECT clock_timestamp()", reads=True)
    )
    return [one.cause.value async for one in settle(since=now[0].replace(year=2020), now=now[0])]


async def test_a_recorded_payment_confirms_the_order_and_says_who_recorded_it(services, db):
    order_id, _ = await unpaid(services)
    entry = await record(services, order_id)
    assert (entry.recorded_by, str(entry.amount), entry.number) == (OPERATOR, "999.99", 0)
    assert await differences(services) == []
    await charging(services, gateway(services))(order_id)
    assert await status(services, order_id) is S.CONFIRMED
    assert await db.fetchval("SELECT reference FROM payment_attempts WHERE outcome = 'captured'") == "t-1"
    before = await everything(db)
    again = [await record(services, order_id, by=SECOND) for _ in range(2)]
    assert again == [entry, entry], "the same record again is the first one"
    assert await everything(db) == before
    assert await differences(services) == []


async def test_a_buyer_who_asks_to_pay_again_gets_the_order_until_it_is_confirmed(services):
    order_id, buyer = await unpaid(services)
    orders = BuyerOrders(
        services.order_rows,
        ReturnUnits(services.books, services.gate, limit=100),
        services.sessions.require,
        payment_due_s=30,
        by_hand=True,
    )
    assert (await orders.pay(order_id, buyer))[0].pay_by is not None
    await record(services, order_id)
    order, intent = await orders.pay(order_id, buyer)
    assert (order.payment_requested, order.pay_by, intent) == (True, None, None)
    await charging(services, gateway(services))(order_id)
    with pytest.raises(errors.StateForbids, match="confirmed"):
        await orders.pay(order_id, buyer)
    ended, other = await unpaid(services)
    await orders.cancel(ended, other)
    with pytest.raises(errors.StateForbids, match="cancelled"):
        await orders.pay(ended, other)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"amount": "999.98"}, payment_errors.PaymentDiffers),
        ({"amount": "1000.00"}, payment_errors.PaymentDiffers),
        ({"currency": "EUR"}, payment_errors.PaymentDiffers),
        ({"amount": "0"}, errors.InvalidInput),
        ({"amount": "999.990"}, errors.InvalidInput),
        ({"currency": "QQQ"}, errors.InvalidInput),
        ({"reference": " "}, errors.InvalidInput),
        ({"reference": "a\x00b"}, errors.InvalidInput),
        ({"reference": "x" * 256}, errors.InvalidInput),
    ],
)
async def test_a_record_that_is_wrong_changes_nothing(services, db, asked, error):
    order_id, _ = await unpaid(services)
    before = await everything(db)
    with pytest.raises(error):
        await record(services, order_id, **asked)
    assert await everything(db) == before


async def test_only_an_order_that_waits_for_its_buyer_can_be_recorded_as_paid(services, db):
    with pytest.raises(errors.OrderNotFound):
        await record(services, uuid.uuid4())
    automatic, _ = await waiting_order(services)
    with pytest.raises(errors.StateForbids):
        await record(services, automatic)
    late, _ = await unpaid(services)
    await db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", late)
    with pytest.raises(errors.StateForbids):
        await record(services, late)
    await sweep(services)
    with pytest.raises(errors.StateForbids, match="expired"):
        await record(services, late)
    assert await db.fetchval("SELECT count(*) FROM manual_entries") == 0


async def test_one_reference_pays_one_order_and_another_reference_is_told_of_the_first(services):
    (first, _), (second, _) = [await unpaid(services) for _ in range(2)]
    await record(services, first, "t-1")
    with pytest.raises(payment_errors.ReferenceUsed):
        await record(services, second, "t-1")
    with pytest.raises(payment_errors.RecordedOtherwise, match="t-1"):
        await record(services, first, "t-2")
    assert await status(services, second) is S.AWAITING_PAYMENT


async def test_an_order_that_another_provider_may_still_be_paid_for_is_refused(services, db):
    order_id, _ = await unpaid(services)
    await db.execute(
        "INSERT INTO payment_intents (order_id, number, provider, reference, state, amount_minor, currency, window_left,"
        " due_at) VALUES ($1, 1, 'stripe', 'pi_1', 'open', 99999, 'USD', '0', clock_timestamp() + interval '1 minute')",
        order_id,
    )
    with pytest.raises(payment_errors.PaidElsewhere):
        await record(services, order_id)
    await db.execute("UPDATE payment_intents SET state = 'cancelled', due_at = NULL")
    await record(services, order_id)


async def test_with_another_provider_nothing_can_be_recorded(services, db):
    order_id, _ = await unpaid(services)
    record_money = recording(services, provider="stripe")
    with pytest.raises(payment_errors.NotSupported, match="stripe"):
        await record_money.payment(
            order_id, reference="t", amount="999.99", currency="USD", recorded_by=OPERATOR, request=None
        )
    assert await db.fetchval("SELECT count(*) FROM manual_entries") == 0


async def test_a_key_belongs_to_one_record(services):
    (first, _), (second, _) = [await unpaid(services) for _ in range(2)]
    key = AdminRequest(user_id=OPERATOR, key="k", fingerprint=bytes(16))
    assert await record(services, first, key=key) == await record(services, first, key=key)
    with pytest.raises(errors.KeyReused):
        await record(services, second, "t-2", key=key._replace(fingerprint=bytes([1]) * 16))


async def expire(services, db, order_id, buyer):
    await sweep(services)


async def cancel(services, db, order_id, buyer):
    await services.orders.cancel(order_id, buyer)


async def second_operator(services, db, order_id, buyer):
    await record(services, order_id, "t-2", by=SECOND)


@pytest.mark.parametrize("rival", [expire, cancel, second_operator])
@pytest.mark.parametrize("first", ["record", "rival"])
async def test_of_a_record_and_a_rival_one_moves_the_order_and_the_other_is_told(services, db, rival, first):
    order_id, buyer = await unpaid(services)
    if rival is expire:
        await db.execute("UPDATE orders SET due_at = clock_timestamp() + interval '0.15 s'")

    async def rivals():
        if rival is expire:
            await db.fetchval("SELECT pg_sleep(0.2)")
        await rival(services, db, order_id, buyer)

    steps = [lambda: record(services, order_id), rivals]
    in_turn = steps if first == "record" else reversed(steps)
    results = [await asyncio.gather(step(), return_exceptions=True) for step in in_turn]
    await charging(services, gateway(services))(order_id)
    is_paid = await status(services, order_id) is S.CONFIRMED
    assert await db.fetchval("SELECT count(*) FROM manual_entries") == (1 if is_paid else 0)
    assert await free(db) == (9 if is_paid else 10)
    assert is_paid == (first == "record" or rival is second_operator)
    told = [one for [one] in results if isinstance(one, Exception)]
    assert all(isinstance(one, errors.StateForbids | payment_errors.RecordedOtherwise) for one in told), told
    assert len(told) == (0 if rival is expire and is_paid else 1)


async def test_rivals_at_the_same_instant_leave_one_end(services, db):
    for _ in range(4):
        order_id, buyer = await unpaid(services)
        results = await asyncio.gather(
            *(record(services, order_id, f"{number}-{order_id}") for number in (1, 1, 2)),
            *(services.orders.cancel(order_id, buyer) for _ in range(2)),
            return_exceptions=True,
        )
        await charging(services, gateway(services))(order_id)
        end = await status(services, order_id)
        entries = await db.fetchval("SELECT count(*) FROM manual_entries WHERE order_id = $1", order_id)
        assert (end, entries) in {(S.CONFIRMED, 1), (S.CANCELLED, 0)}
        refusals = [one for one in results if isinstance(one, Exception)]
        assert all(isinstance(one, errors.StateForbids | payment_errors.RecordedOtherwise) for one in refusals), (
            refusals
        )
        assert len(refusals) < len(results), "one of them won"


async def test_control_without_the_lock_of_the_order_only_a_constraint_keeps_a_cancelled_order_unpaid(services, db):
    source = (ROOT / "sql" / "functions" / "record_payment_v1.sql").read_text()
    lock = (
        "WHERE o.order_id = _order_id FOR NO KEY UPDATE;\n    IF NOT FOUND THEN\n        RETURN QUERY SELECT 'unknown'"
    )
    assert lock in source
    waiting = lock.replace(" FOR NO KEY UPDATE;", "; PERFORM pg_sleep(0.3);")
    await db.execute(source.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").replace(lock, waiting))
    order_id, buyer = await unpaid(services)
    paying = asyncio.create_task(record(services, order_id))
    async with asyncio.timeout(60):
        while not await db.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
            await asyncio.sleep(0.01)
    await services.orders.cancel(order_id, buyer)
    # It decides by what it read before the cancellation; a constraint stands behind the lock.
    with pytest.raises(asyncpg.CheckViolationError, match="orders_check"):
        await paying


async def test_an_automatic_order_is_declined_and_one_that_was_tried_elsewhere_waits_for_a_person(services, db):
    fresh, _ = await waiting_order(services)
    await charging(services, gateway(services))(fresh)
    assert await status(services, fresh) is S.PAYMENT_FAILED
    tried, _ = await waiting_order(services)
    await charging(services, Gateway(ChargeOutcome.UNKNOWN))(tried)
    await charging(services, gateway(services))(tried)
    await charging(services, gateway(services), tries_max=1)(tried)
    assert await status(services, tried) is S.PAYMENT_UNKNOWN


async def test_a_refund_waits_until_an_operator_records_it_and_moves_the_order_once(services, db):
    order_id, _ = await paid(services)
    await requesting(services)(order_id, restock=True)
    job = refunding(services, gateway(services))
    await job(order_id)
    refunds = PostgresRefunds(services.database)
    [pending] = await refunds.of_order(order_id)
    assert (pending.state.value, pending.problem) == (
        "pending",
        "an operator has to give the money back and to record it",
    )
    assert await differences(services) == []
    record_money = recording(services)
    with pytest.raises(payment_errors.RefundNotFound):
        await record_money.refund(order_id, 2, reference="b-1", recorded_by=OPERATOR)
    with pytest.raises(payment_errors.RefundNotFound):
        await record_money.refund(order_id, 2**31, reference="b-1", recorded_by=OPERATOR)
    entries = await asyncio.gather(
        *(record_money.refund(order_id, 1, reference="b-1", recorded_by=OPERATOR) for _ in range(4))
    )
    assert len(set(entries)) == 1
    assert await differences(services) == []
    await asyncio.gather(*(job(order_id) for _ in range(3)))
    order = await order_of(services, order_id)
    assert (order.status, order.refunded_minor, await free(db)) == (S.REFUNDED, 99_999, 10)
    with pytest.raises(payment_errors.RecordedOtherwise, match="b-1"):
        await record_money.refund(order_id, 1, reference="b-2", recorded_by=OPERATOR)
    await job(order_id)
    assert await differences(services) == []


async def test_a_refund_of_money_that_another_provider_took_cannot_be_recorded(services, db):
    order_id, _ = await waiting_order(services)
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    await requesting(services)(order_id)
    with pytest.raises(payment_errors.PaidElsewhere):
        await recording(services).refund(order_id, 1, reference="b-1", recorded_by=OPERATOR)
    assert await status(services, order_id) is S.REFUND_PENDING


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ("DELETE FROM manual_entries WHERE number = 0", "not_captured"),
        ("UPDATE manual_entries SET amount_minor = 99998 WHERE number = 0", "amount_differs"),
        ("UPDATE manual_entries SET currency = 'EUR'", "currency_differs"),
        ("DELETE FROM manual_entries WHERE number = 1", "refund_missing_there"),
    ],
)
async def test_the_settlement_names_what_differs_between_orders_and_book(services, db, wrong, cause):
    order_id, _ = await paid(services)
    await requesting(services)(order_id, "1.00")
    await recording(services).refund(order_id, 1, reference="b-1", recorded_by=OPERATOR)
    await refunding(services, gateway(services))(order_id)
    assert await differences(services) == []
    kept = await db.fetch("SELECT * FROM manual_entries")
    await db.execute(wrong)
    assert await differences(services) == [cause]
    await db.execute("DELETE FROM manual_entries")
    await db.executemany("INSERT INTO manual_entries VALUES ($1, $2, $3, $4, $5, $6, $7)", [tuple(row) for row in kept])
