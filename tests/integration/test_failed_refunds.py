"""Refunds that fail are told once to everybody who is concerned; refunds that nobody began can be withdrawn."""

import asyncio
import json

import pytest

from flashsale.adapters.mail.texts import mail_of
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.domain import payment_errors as errors
from flashsale.domain.messages import MAILED, Event, body_of
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import NoAnswerKind, Refund, RefundState
from flashsale.domain.products import PaymentMode
from flashsale.usecases.refund import REFUNDS
from tests.conftest import assert_invariants
from tests.support import manual
from tests.support.charging import charging, free, waiting_order
from tests.support.provider import paying
from tests.support.refunding import Provider, order_of, paid_order, refunding, requesting

S, R = OrderStatus, RefundState
OLDER = "UPDATE outbox_targets SET wanted_since = wanted_since - i.age, created_at = created_at - i.age FROM (VALUES (interval '1 hour')) AS i (age)"
"""Makes the audit ask for every message."""


@pytest.fixture
async def outbox(services, db):
    rows = PostgresOutbox(services.database)
    assert await rows.add_endpoint("wh_a", "https://shop.example/", "whsec_AA==", list(Event), targets_max=9)
    await rows.tell_buyers(MAILED)
    await db.execute(OLDER)
    return rows


async def told(outbox, target="wh_a"):
    """End all messages of a target; returns those about refunds that failed."""
    found = []
    while claimed := await outbox.claim(target, limit=50, lease_s=60):
        for one in claimed:
            await outbox.end(one, "delivered", None)
        found += claimed
    return [one for one in found if one.event is Event.ORDER_REFUND_FAILED]


def counted(end):
    return REFUNDS.labels(end)._value.get()


@pytest.mark.parametrize("end", [R.FAILED, NoAnswerKind.REFUSED])
@pytest.mark.parametrize("amount", [None, "100.00"])
async def test_a_refund_that_fails_is_told_once_to_the_shop_and_the_buyer(services, db, outbox, end, amount):
    order_id, _ = await paid_order(services)
    before = counted("failed")
    await requesting(services)(order_id, amount)
    make = refunding(services, Provider(end))
    await make(order_id)
    failed = Refund(
        reference="re_1", key=f"{order_id}:refund:1", intent="pi_1", state=R.FAILED, reason="closed",
        amount=Money(minor=99_999 if amount is None else 10_000, currency="USD"),
    )  # fmt: skip
    for _ in range(2):
        await make.note(order_id, [failed])
    assert (await order_of(services, order_id)).status is S.CONFIRMED
    assert counted("failed") == before + 1
    (message,) = await told(outbox)
    data = json.loads(body_of(message))["data"]
    assert (data["status"], data["refund"], data["refunded"], data["unused"]) == (
        "confirmed", amount or "999.99", "0.00", False,
    )  # fmt: skip
    (mail,) = await told(outbox, "mail")
    assert (amount or "999.99") in mail_of(mail, sender="shop@example.com", address="ada@example.com").as_string()
    await assert_invariants(services.database)
    await db.execute("DELETE FROM outbox WHERE failed <> '' AND target_id = 'mail'")
    with pytest.raises(AssertionError):
        await assert_invariants(services.database)
    await db.execute("DELETE FROM outbox_targets")


async def test_a_refund_that_the_bank_sends_back_later_is_told_once_and_the_order_stays_refunded(services, db, outbox):
    order_id, _ = await paid_order(services)
    await requesting(services)(order_id, restock=True)
    make = refunding(services, Provider())
    await make(order_id)
    assert (await order_of(services, order_id)).status is S.REFUNDED
    back = Refund(
        reference=f"re_{order_id}:refund:1", key=f"{order_id}:refund:1", intent="pi_1", state=R.FAILED,
        amount=Money(minor=99_999, currency="USD"), reason="expired_or_canceled_card",
    )  # fmt: skip
    before = counted("bounced")
    for _ in range(3):
        await make.note(order_id, [back])
    assert counted("bounced") == before + 1
    assert (await order_of(services, order_id)).status is S.REFUNDED
    row = await db.fetchrow("SELECT state, problem, bounced_at FROM refunds")
    assert (row["state"], row["problem"], row["bounced_at"] is None) == ("succeeded", "expired_or_canceled_card", False)
    (message,) = await told(outbox)
    assert json.loads(body_of(message))["data"]["status"] == "refunded"
    await assert_invariants(services.database)


async def test_late_money_that_cannot_be_sent_back_is_told_once(services, db, outbox):
    order_id, _ = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER)
    pays = paying(services)
    reference = (await pays.open(order_id)).reference
    await services.order_rows.end([order_id], S.CANCELLED)
    pays.provider.capture(reference)
    for _ in range(2):
        pays.provider.silent = [None, None, NoAnswerKind.REFUSED]
        await db.execute("UPDATE payment_intents SET due_at = clock_timestamp()")
        await pays.settle(order_id, 1)
    assert await db.fetchval("SELECT problem FROM payment_intents") == "refund"
    (message,) = await told(outbox)
    data = json.loads(body_of(message))["data"]
    assert (data["status"], data["refund"], data["unused"]) == ("cancelled", "999.99", True)
    await assert_invariants(services.database)


async def by_hand(services):
    """An order that was paid by hand, with a refund of all of it that nobody recorded yet."""
    order_id, _ = await manual.paid(services)
    await requesting(services)(order_id, restock=True)
    return order_id


async def test_a_refund_that_nobody_recorded_is_withdrawn_and_told_to_nobody(services, db, outbox):
    order_id = await by_hand(services)
    job, refunds = refunding(services, manual.gateway(services)), PostgresRefunds(services.database)
    await job(order_id)
    assert (await order_of(services, order_id)).status is S.REFUND_PENDING
    withdrawn = [await services.refunds.withdraw(order_id, 1) for _ in range(2)]
    assert [(one.state, one.problem) for one in withdrawn] == [(R.FAILED, "withdrawn")] * 2
    order = await order_of(services, order_id)
    assert (order.status, order.refunded_minor, await free(db)) == (S.CONFIRMED, 0, 9)
    assert await told(outbox) == []
    await job(order_id)
    with pytest.raises(errors.RefundEnded):
        await manual.recording(services).refund(order_id, 1, reference="b-1", recorded_by=manual.OPERATOR)
    # Another refund may follow.
    assert (await requesting(services)(order_id, "100.00")).number == 2
    assert [one.state for one in await refunds.of_order(order_id)] == [R.FAILED, R.PENDING]
    for number, error in ((3, errors.RefundNotFound), (2**31 - 1, errors.RefundNotFound)):
        with pytest.raises(error):
            await services.refunds.withdraw(order_id, number)


async def test_a_refund_whose_money_may_be_on_its_way_is_not_withdrawn(services, db):
    order_id = await by_hand(services)
    await manual.recording(services).refund(order_id, 1, reference="b-1", recorded_by=manual.OPERATOR)
    with pytest.raises(errors.RefundBegun):
        await services.refunds.withdraw(order_id, 1)
    await refunding(services, manual.gateway(services))(order_id)
    with pytest.raises(errors.RefundEnded):
        await services.refunds.withdraw(order_id, 1)
    # A provider that was asked and did not answer.
    other, _ = await paid_order(services)
    await requesting(services)(other)
    provider = Provider(NoAnswerKind.UNSENT, NoAnswerKind.UNKNOWN)
    await refunding(services, provider)(other)
    await refunding(services, provider)(other)
    with pytest.raises(errors.RefundBegun):
        await services.refunds.withdraw(other, 1)


async def test_of_a_withdrawal_and_the_provider_s_call_at_the_same_time_one_wins(services, db):
    """Control: without the look at `sent` the refund is made and the order says that it was not."""
    order_id, _ = await paid_order(services)
    await requesting(services)(order_id)
    provider = Provider()
    provider.go_on.clear()
    making = asyncio.create_task(refunding(services, provider)(order_id))
    await provider.reached.wait()
    with pytest.raises(errors.RefundBegun):
        await services.refunds.withdraw(order_id, 1)
    text = await db.fetchval("SELECT pg_get_functiondef('withdraw_refund_v1'::regproc)")
    transaction = db.transaction()
    await transaction.start()
    await db.execute(text.replace("_refund.sent OR", "false OR"))
    row = await db.fetchrow("SELECT result FROM withdraw_refund_v1($1, 1)", order_id)
    assert row["result"] == "withdrawn", "control"
    await transaction.rollback()
    provider.go_on.set()
    await making
    assert (await order_of(services, order_id)).status is S.REFUNDED


@pytest.mark.parametrize("first", ["withdraw", "record"])
async def test_a_withdrawal_and_a_record_by_hand_exclude_each_other(services, db, first):
    order_id = await by_hand(services)
    record = manual.recording(services)
    async with asyncio.timeout(60):
        results = await asyncio.gather(
            *(services.refunds.withdraw(order_id, 1) for _ in range(2 if first == "withdraw" else 1)),
            *(record.refund(order_id, 1, reference="b-1", recorded_by=manual.OPERATOR) for _ in range(2)),
            return_exceptions=True,
        )
    await refunding(services, manual.gateway(services))(order_id)
    status = (await order_of(services, order_id)).status
    recorded = await db.fetchval("SELECT count(*) FROM manual_entries WHERE number = 1")
    assert (status, recorded) in {(S.CONFIRMED, 0), (S.REFUNDED, 1)}
    unexpected = [
        one for one in results
        if isinstance(one, BaseException) and not isinstance(one, errors.RefundBegun | errors.RefundEnded)
    ]  # fmt: skip
    assert not unexpected


async def test_a_payment_that_was_recorded_is_charged_before_its_refund_is_withdrawn(services):
    """The refund of an order paid by hand is withdrawn over and over, and the order's money never moves."""
    order_id, _ = await manual.paid(services)
    for number in range(1, 4):
        await requesting(services)(order_id)
        assert (await services.refunds.withdraw(order_id, number)).problem == "withdrawn"
    await charging(services, manual.gateway(services))(order_id)
    assert (await order_of(services, order_id)).status is S.CONFIRMED
