"""Refunds: each at most once, in whatever order it is told of, and with its units or without."""

import asyncio
import itertools
import runpy
import sys
from datetime import UTC, datetime

import pytest

from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.domain import errors, payment_errors
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome, Intent, IntentState, NoAnswerKind, Refund, RefundState
from flashsale.domain.requests import AdminRequest
from tests.conftest import ROOT, add_buyers, add_product
from tests.support.accepting import accept_one
from tests.support.charging import Gateway, charging, free, waiting_order
from tests.support.refunding import ADMIN, Provider, order_of, paid_order, refunding, requesting

S, R = OrderStatus, RefundState
PRICE = 99_999


async def rows(db):
    found = await db.fetch("SELECT number, amount_minor, state, problem, reference FROM refunds ORDER BY number")
    return [tuple(row) for row in found]


async def everything(db):
    tables = ("orders", "order_events", "refunds", "units", "buyer_units", "procrastinate_jobs")
    return [await db.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


@pytest.mark.parametrize(("restock", "units"), [(True, 10), (False, 9)])
async def test_a_whole_refund_ends_the_order_and_releases_its_units_only_if_it_says_so(services, db, restock, units):
    order_id, _ = await paid_order(services)
    await requesting(services)(order_id, restock=restock)
    assert (await order_of(services, order_id)).status is S.REFUND_PENDING
    assert await free(db) == 9, "units wait for the money"
    provider = Provider()
    for _ in range(2):
        await refunding(services, provider)(order_id)
    order = await order_of(services, order_id)
    assert (order.status, order.refunded_minor, provider.asked) == (S.REFUNDED, PRICE, [f"{order_id}:refund:1"])
    assert await free(db) == units
    assert await db.fetchval("SELECT units FROM buyer_units") == 10 - units
    assert await db.fetchval("SELECT sum(units) FROM product_restocks") == (1 if restock else None)


async def test_the_sums_of_released_units_are_made_by_the_upgrade(services, db):
    product = await add_product(services)
    for user, restock in zip(await add_buyers(services, 3), (True, False, True), strict=True):
        order_id = await accept_one(services, product, user)
        await services.order_rows.process([order_id], payment_due_s=30)
        await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
        await requesting(services)(order_id, restock=restock)
        await refunding(services, Provider())(order_id)
    kept = await db.fetch("SELECT * FROM product_restocks")
    assert [row["units"] for row in kept] == [2]
    (revision,) = (ROOT / "migrations" / "versions").glob("*_reads_of_what_is_due.py")
    await db.execute("DELETE FROM product_restocks")
    await db.execute(runpy.run_path(str(revision))["SUMS"])
    assert await db.fetch("SELECT * FROM product_restocks") == kept


async def test_parts_leave_the_order_confirmed_until_their_sum_is_the_price(services, db):
    order_id, _ = await paid_order(services)
    ask, refund = requesting(services), refunding(services, Provider())
    seen = []
    for amount in ("300.00", "300.00", None):
        await ask(order_id, amount)
        before = (await order_of(services, order_id)).status
        await refund(order_id)
        order = await order_of(services, order_id)
        seen.append((before, order.status, str(order.refunded)))
    assert seen == [
        (S.CONFIRMED, S.CONFIRMED, "300.00"),
        (S.CONFIRMED, S.CONFIRMED, "600.00"),
        (S.REFUND_PENDING, S.REFUNDED, "999.99"),
    ]


@pytest.mark.parametrize(
    ("reply", "state", "order"),
    [
        (NoAnswerKind.UNSENT, "pending", S.REFUND_PENDING),
        (NoAnswerKind.UNKNOWN, "pending", S.REFUND_PENDING),
        (R.PENDING, "pending", S.REFUND_PENDING),
        (NoAnswerKind.REFUSED, "failed", S.CONFIRMED),
        (R.FAILED, "failed", S.CONFIRMED),
        (R.SUCCEEDED, "succeeded", S.REFUNDED),
    ],
)
async def test_what_the_provider_says_decides_and_its_silence_does_not(services, db, reply, state, order):
    order_id, _ = await paid_order(services)
    await requesting(services)(order_id, restock=True)
    provider = Provider(reply)
    refund = refunding(services, provider)
    await refund(order_id)
    assert (await rows(db))[0][2] == state
    assert (await order_of(services, order_id)).status is order
    assert await free(db) == (10 if order is S.REFUNDED else 9)
    if state == "pending":
        await refund(order_id)
        assert provider.asked == [f"{order_id}:refund:1"] * 2, "under the same key"
    elif state == "failed":
        await requesting(services)(order_id)
        await refund(order_id)
        assert provider.asked[-1] == f"{order_id}:refund:2", "a new key after a definite end"
    assert (await order_of(services, order_id)).status is S.REFUNDED


async def refused(services, order_id, db, error, **asked):
    before = await everything(db)
    with pytest.raises(error):
        await requesting(services)(order_id, **asked)
    assert await everything(db) == before, "nothing changed"


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"amount": "1000.00"}, payment_errors.RefundTooLarge),
        ({"amount": "0"}, errors.InvalidInput),
        ({"amount": "-1"}, errors.InvalidInput),
        ({"amount": "1.001"}, errors.InvalidInput),
        ({"amount": "1.00", "restock": True}, errors.InvalidInput),
        ({"reason": " "}, errors.InvalidInput),
        ({"reason": "a\x00b"}, errors.InvalidInput),
    ],
)
async def test_a_request_that_is_wrong_is_refused(services, db, asked, error):
    order_id, _ = await paid_order(services)
    await refused(services, order_id, db, error, **asked)


async def test_an_order_that_has_nothing_to_give_back_is_refused(services, db):
    waiting, _ = await waiting_order(services)
    await refused(services, waiting, db, errors.StateForbids)
    await charging(services, Gateway(ChargeOutcome.DECLINED))(waiting)
    await refused(services, waiting, db, errors.StateForbids)
    await refused(services, ADMIN, db, errors.OrderNotFound)
    await refused(services, ADMIN, db, errors.OrderNotFound, amount="1.00")
    paid, _ = await paid_order(services, name="Case")
    await requesting(services)(paid)
    await refused(services, paid, db, payment_errors.RefundUnderWay)
    await refunding(services, Provider())(paid)
    await refused(services, paid, db, errors.StateForbids)


async def test_a_request_under_a_key_is_carried_out_once(services, db):
    order_id, _ = await paid_order(services)
    key = AdminRequest(user_id=ADMIN, key="k", fingerprint=bytes(16))
    ask = requesting(services)
    first = await ask(order_id, "1.00", key=key)
    await refunding(services, Provider())(order_id)
    again = await ask(order_id, "1.00", key=key)
    assert (first.number, again.number, again.state) == (1, 1, R.SUCCEEDED)
    with pytest.raises(errors.KeyReused):
        await ask(order_id, "2.00", key=AdminRequest(user_id=ADMIN, key="k", fingerprint=bytes([1] * 16)))
    refusal = AdminRequest(user_id=ADMIN, key="l", fingerprint=bytes(16))
    with pytest.raises(payment_errors.RefundTooLarge):
        await ask(order_id, "9999.00", key=refusal)
    assert await db.fetchval("SELECT count(*) FROM admin_requests") == 1, "refusals keep no key"


def dispute(order_id, *, disputed):
    return Intent(
        reference="r", order_id=order_id, state=IntentState.CAPTURED, amount=Money(minor=PRICE, currency="USD"),
        refunded_minor=0, disputed=disputed, client_secret=None, page_url=None, decline_code=None,
        created_at=datetime.now(UTC),
    )  # fmt: skip


async def test_a_dispute_blocks_a_refund_whether_a_webhook_or_a_look_up_tells(services, db):
    order_id, _ = await paid_order(services)
    provider = Provider()
    refund = refunding(services, provider)
    # By a webhook, before the refund is asked for.
    await refund.note_intent(order_id, dispute(order_id, disputed=True))
    await refused(services, order_id, db, payment_errors.OrderDisputed)
    await refund.note_intent(order_id, dispute(order_id, disputed=False))
    # By the look-up before the call.
    await requesting(services)(order_id)
    provider.disputed = dispute(order_id, disputed=True)
    await refund(order_id)
    assert provider.asked == []
    assert (await rows(db))[0][2:4] == ("failed", "disputed")
    assert (await order_of(services, order_id)).status is S.CONFIRMED
    await refused(services, order_id, db, payment_errors.OrderDisputed)


async def test_a_refund_that_may_have_been_made_is_asked_for_again_although_the_charge_is_disputed(services, db):
    order_id, _ = await paid_order(services)
    await requesting(services)(order_id)
    provider = Provider(NoAnswerKind.UNKNOWN)
    provider.disputed = dispute(order_id, disputed=False)
    refund = refunding(services, provider)
    await refund(order_id)
    provider.disputed = dispute(order_id, disputed=True)
    await refund(order_id)
    assert (await order_of(services, order_id)).status is S.REFUNDED
    assert provider.asked == [f"{order_id}:refund:1"] * 2


def told(order_id, state, key=1, reference="re_1", minor=PRICE):
    return Refund(
        reference=reference,
        key=None if key is None else f"{order_id}:refund:{key}",
        intent="r",
        state=state,
        amount=Money(minor=minor, currency="USD"),
        reason="bank" if state is R.FAILED else None,
    )


async def test_any_order_repetition_and_loss_of_what_is_told_comes_to_the_same(services, db):
    """All orders of up to four tellings of a refund, by our key or by the provider's reference."""
    ends = {}
    order_id, _ = await paid_order(services)
    await requesting(services)(order_id, restock=True)
    refund = refunding(services, Provider())
    tellings = [(R.PENDING, 1), (R.SUCCEEDED, 1), (R.SUCCEEDED, None), (R.FAILED, 1)]
    tried = 0
    for length in range(1, 5):
        for seen in itertools.product(tellings, repeat=length):
            if seen[0][1] is None:
                continue  # The reference alone names a refund that was told of before.
            transaction = db.transaction()
            await transaction.start()
            for state, key in seen:
                one = told(order_id, state, key)
                await db.fetchval(
                    "SELECT note_refund_v1($1, $2, $3, $4, $5, $6, $7, NULL)",
                    order_id, one.key, one.reference, state.value, one.amount.minor, "USD", one.reason,
                )  # fmt: skip
            states = {state for state, _ in seen}
            wanted = "succeeded" if R.SUCCEEDED in states else "failed" if R.FAILED in states else "pending"
            end = (
                await db.fetchval("SELECT string_agg(state, ' ') FROM refunds"),
                *await db.fetchrow("SELECT status, refunded_minor, restocked FROM orders"),
                await free(db),
                await db.fetchval("SELECT count(*) FROM gate_returns"),
            )
            ends.setdefault(wanted, set()).add(end)
            tried += 1
            await transaction.rollback()
    sys.stdout.write(f"{tried} sequences\n")
    assert ends == {
        "pending": {("pending", "refund_pending", 0, False, 9, 0)},
        "failed": {("failed", "confirmed", 0, False, 9, 0)},
        "succeeded": {("succeeded", "refunded", PRICE, True, 10, 1)},
    }
    await refund(order_id)


async def test_a_refund_made_at_the_provider_is_written_and_counts(services, db):
    order_id, _ = await paid_order(services)
    refund = refunding(services, Provider())
    elsewhere = told(order_id, R.SUCCEEDED, key=None, reference="re_x", minor=40_000)
    for _ in range(2):
        await refund.note(order_id, [elsewhere])
    order = await order_of(services, order_id)
    assert (order.status, order.refunded_minor) == (S.CONFIRMED, 40_000)
    await refused(services, order_id, db, payment_errors.RefundTooLarge, amount="700.00")
    await requesting(services)(order_id)
    await refund(order_id)
    assert (await order_of(services, order_id)).status is S.REFUNDED
    assert [row[1] for row in await rows(db)] == [40_000, PRICE - 40_000]


async def test_a_refund_of_another_amount_than_was_asked_for_changes_nothing(services, db):
    order_id, _ = await paid_order(services)
    await requesting(services)(order_id)
    before = await everything(db)
    await refunding(services, Provider()).note(order_id, [told(order_id, R.SUCCEEDED, minor=1)])
    assert await everything(db) == before


async def test_money_of_an_order_that_ended_is_not_this_orders_refund(services, db):
    order_id, _ = await waiting_order(services)
    await charging(services, Gateway(ChargeOutcome.DECLINED))(order_id)
    before = await everything(db)
    await refunding(services, Provider()).note(order_id, [told(order_id, R.SUCCEEDED)])
    assert await everything(db) == before


async def test_a_slow_worker_that_was_refused_ends_nothing_that_a_newer_one_asks_for(services, db):
    order_id, _ = await paid_order(services)
    await requesting(services)(order_id)
    refunds = PostgresRefunds(services.database)
    slow = await refunds.begin(order_id, due_s=30)
    newer = await refunds.begin(order_id, due_s=30)
    assert (slow.sent, newer.sent) == (False, True), "the call of the first may have been made"
    assert await refunds.miss(slow, "refused", "late", retry_after_s=1) is R.PENDING
    assert await refunds.miss(newer, "unsent", "busy", retry_after_s=1) is R.PENDING
    assert (await refunds.begin(order_id, due_s=30)).sent
    await refunding(services, Provider())(order_id)


async def test_a_pending_refund_whose_job_is_lost_is_woken(services, db):
    order_id, _ = await paid_order(services)
    await requesting(services)(order_id, "1.00")
    refund = refunding(services, Provider())
    count = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'payments:refund'"
    due = "UPDATE refunds SET due_at = clock_timestamp() - interval '1 s'"
    await db.execute(due)
    await refund.wake()
    assert await db.fetchval(count) == 1, "its job still waits"
    await db.execute("DELETE FROM procrastinate_jobs")
    await refund.wake()
    assert await db.fetchval(count) == 0, "not due yet"
    await db.execute(due)
    await refund.wake()
    assert await db.fetchval(count) == 1
    await refund(order_id)


async def test_two_administrators_at_once_make_one_refund(services, db):
    order_id, _ = await paid_order(services)
    ask = requesting(services)
    asked = await asyncio.gather(*(ask(order_id, "600.00") for _ in range(8)), return_exceptions=True)
    kinds = sorted(type(one).__name__ for one in asked)
    assert kinds == ["OrderRefund"] + ["RefundUnderWay"] * 7
    await refunding(services, Provider())(order_id)
