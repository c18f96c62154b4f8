"""Buyers pay at the provider: an intent each, webhooks in any order, money that comes too late."""

from __future__ import annotations

import asyncio
import json

import pytest

from flashsale.domain.errors import Unavailable
from flashsale.domain.intents import KnownState
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payment_errors import WebhookRefused
from flashsale.domain.payments import ChargeAnswer, ChargeOutcome, NoAnswerKind
from flashsale.domain.products import PaymentMode
from tests.conftest import sweep
from tests.support.charging import charging, free, status, waiting_order
from tests.support.provider import NAME, Provider, other_amount, paying

S = OrderStatus


async def by_buyer(services, **product):
    order_id, buyer = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER, **product)
    return order_id, buyer, paying(services)


async def expire(services, db, order_id):
    await db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", order_id)
    await sweep(services)
    assert await status(services, order_id) is S.EXPIRED


async def intent_of(db, order_id):
    return await db.fetchrow("SELECT * FROM payment_intents WHERE order_id = $1 ORDER BY number DESC", order_id)


async def test_a_buyer_who_asks_twice_and_at_once_gets_the_same_intent(services, db):
    order_id, _, pays = await by_buyer(services)
    intents = await asyncio.gather(*(pays.open(order_id) for _ in range(4)))
    intents.append(await pays.open(order_id))
    assert {one.client_secret for one in intents} == {f"{intents[0].reference}_secret"}
    assert {one.state for one in intents} == {KnownState.OPEN}
    assert len(pays.provider.held) == 1
    assert await db.fetchval("SELECT count(*) FROM payment_intents") == 1


async def test_the_row_is_committed_before_the_provider_is_asked(services, db):
    order_id, _, pays = await by_buyer(services)
    seen = []
    asks = pays.provider.open_intent

    async def noted(**more):
        seen.append(await db.fetchval("SELECT state FROM payment_intents WHERE order_id = $1", order_id))
        return await asks(**more)

    pays.provider.open_intent = noted
    await pays.open(order_id)
    assert seen == ["opening"]


async def test_money_that_is_held_in_time_is_captured_and_confirms_the_order(services, db):
    order_id, _, pays = await by_buyer(services)
    intent = await pays.open(order_id)
    assert pays.provider.authorize(intent.reference)
    await pays.tell("evt_1", intent.reference)
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'payments:charge'") == 1
    await charging(services, pays.provider)(order_id)
    assert await status(services, order_id) is S.CONFIRMED
    row = await intent_of(db, order_id)
    assert (row["state"], row["due_at"]) == ("captured", None)
    asked = len(pays.provider.asked)
    await pays.tell("evt_2", intent.reference, kind="payment_intent.succeeded")
    assert len(pays.provider.asked) == asked, "a webhook about a paid order asks nobody"


async def test_a_lost_webhook_is_made_up_for_by_a_look(services, db):
    order_id, _, pays = await by_buyer(services)
    intent = await pays.open(order_id)
    pays.provider.authorize(intent.reference)
    due = await db.fetchrow(
        "SELECT i.due_at < o.due_at AS sooner FROM payment_intents AS i INNER JOIN orders AS o USING (order_id)"
    )
    assert due["sooner"], "before the buyer's time ends"
    await db.execute("UPDATE payment_intents SET due_at = clock_timestamp()")
    woken = await pays.intents.wake(intents_max=10, events_max=10, due_s=30)
    assert woken == (1, 0)
    assert await pays.intents.wake(intents_max=10, events_max=10, due_s=30) == (0, 0)
    await pays.settle(order_id, 1)
    await charging(services, pays.provider)(order_id)
    assert await status(services, order_id) is S.CONFIRMED


@pytest.mark.parametrize("end", ["expired", "cancelled"])
@pytest.mark.parametrize("money", ["none", "held", "captured"])
async def test_an_order_that_ended_keeps_its_end_and_its_intent_ends_too(services, db, end, money):
    order_id, buyer, pays = await by_buyer(services)
    intent = await pays.open(order_id)
    if end == "expired":
        await expire(services, db, order_id)
    else:
        await services.orders.cancel(order_id, buyer)
    if money == "held":
        pays.provider.authorize(intent.reference)
    elif money == "captured":
        pays.provider.capture(intent.reference)
    await pays.settle_all(db)
    row = await intent_of(db, order_id)
    assert row["due_at"] is None
    assert row["state"] == ("refunded" if money == "captured" else "cancelled")
    assert await status(services, order_id) is S(end)
    assert await free(db) == 10
    await pays.tell("evt_1", intent.reference)
    await pays.settle_all(db)
    assert list(pays.provider.refunds) == ([f"{order_id}:refund:late"] if money == "captured" else [])
    assert pays.provider.asked.count("refund") <= 1


@pytest.mark.parametrize("kind", [NoAnswerKind.UNKNOWN, NoAnswerKind.UNSENT])
@pytest.mark.parametrize("silent_calls", range(6))
async def test_late_money_is_given_back_once_whichever_answers_are_lost(services, db, kind, silent_calls):
    order_id, _, pays = await by_buyer(services)
    intent = await pays.open(order_id)
    await expire(services, db, order_id)
    pays.provider.capture(intent.reference)
    pays.provider.silent = [kind] * silent_calls
    for _ in range(silent_calls + 2):
        await db.execute("UPDATE payment_intents SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
        await pays.settle_all(db)
    assert (await intent_of(db, order_id))["state"] == "refunded"
    assert pays.provider.held[intent.reference].refunded_minor == intent_price(pays, intent)
    assert len(pays.provider.refunds) == 1


def intent_price(pays, intent):
    return pays.provider.held[intent.reference].amount.minor


@pytest.mark.parametrize("amount", [other_amount(99_998), other_amount(1_000_000)])
@pytest.mark.parametrize("captured", [False, True])
async def test_another_amount_never_confirms_an_order_and_a_person_is_told(services, db, amount, captured):
    order_id, _, pays = await by_buyer(services)
    intent = await pays.open(order_id)
    pays.provider.change(intent.reference, amount=amount)
    (pays.provider.capture if captured else pays.provider.authorize)(intent.reference)
    for number in range(3):
        await pays.tell(f"evt_{number}", intent.reference)
    assert await status(services, order_id) is S.AWAITING_PAYMENT
    assert await services.order_rows.count_postponed() == 1
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'payments:charge'") == 0
    await expire(services, db, order_id)
    await pays.settle_all(db)
    assert (await intent_of(db, order_id))["due_at"] is None
    assert [one.amount for one in pays.provider.refunds.values()] == ([amount] if captured else [])


class Undecided(Provider):
    """Opens an intent for a charge, and does not say what became of its money; nor, unless it `names` it, its id."""

    def __init__(self, outcome, *, names=True):
        super().__init__()
        self.outcome = outcome
        self.names = names
        self.named = []

    async def charge(self, *, order_id, reference=None, amount, timeout_s, **_):
        self.named.append(reference)
        opened = await self.open_intent(order_id=order_id, number=1, amount=amount, timeout_s=timeout_s)
        return ChargeAnswer(outcome=self.outcome, reference=None, intent=opened.reference if self.names else None)


@pytest.mark.parametrize("outcome", [ChargeOutcome.UNKNOWN, ChargeOutcome.UNSENT])
@pytest.mark.parametrize("then", ["captured", "too late", "another amount"])
async def test_the_intent_of_a_charge_that_is_not_decided_is_named_and_looked_up(services, db, outcome, then):
    order_id, _ = await waiting_order(services)
    provider = Undecided(outcome)
    pays, charge = paying(services, provider), charging(services, provider)
    for _ in range(3):
        await charge(order_id)
    (intent,) = await db.fetch("SELECT * FROM payment_intents WHERE order_id = $1", order_id)
    assert (provider.named, intent["state"]) == ([None, intent["reference"], intent["reference"]], "open")
    assert intent["due_at"] is not None
    provider.capture(intent["reference"])
    if then == "too late":
        provider.outcome = ChargeOutcome.DECLINED
        await charge(order_id)
    elif then == "another amount":
        provider.change(intent["reference"], amount=other_amount(1))
    await pays.settle(order_id, intent["number"])
    if then == "captured":
        assert await status(services, order_id) is S.CONFIRMED
    elif then == "another amount":
        assert await status(services, order_id) is not S.CONFIRMED
        assert await services.order_rows.count_postponed() == 1
    else:
        assert await status(services, order_id) is S.PAYMENT_FAILED
        assert [one.amount.minor for one in provider.refunds.values()] == [99_999]


async def test_an_intent_that_only_a_webhook_names_is_charged_by_its_name(services, db):
    order_id, _ = await waiting_order(services)
    provider = Undecided(ChargeOutcome.UNKNOWN, names=False)
    pays, charge = paying(services, provider), charging(services, provider)
    await charge(order_id)
    (reference,) = provider.held
    provider.authorize(reference)
    for number in range(2):
        await pays.tell(f"evt_{number}", reference)
    await charge(order_id)
    assert provider.named == [None, reference]
    assert await db.fetchval("SELECT count(*) FROM payment_intents WHERE order_id = $1", order_id) == 1


async def test_an_intent_without_a_clear_answer_is_never_handed_out_and_is_cancelled(services, db):
    order_id, _, pays = await by_buyer(services)
    pays.provider.silent = [NoAnswerKind.UNKNOWN]
    intent = await pays.open(order_id)
    assert intent.number == 2
    assert len(pays.provider.held) == 2
    await pays.settle_all(db)
    rows = await db.fetch("SELECT state FROM payment_intents ORDER BY number")
    assert [row["state"] for row in rows] == ["cancelled", "open"]
    assert [one.state.value for one in pays.provider.held.values()] == ["cancelled", "open"]


async def test_waiting_for_the_provider_uses_up_none_of_the_buyers_time(services, db):
    order_id, buyer, pays = await by_buyer(services, payment_window_s=20)
    before = (await services.orders.get(order_id, buyer)).pay_by
    pays.provider.silent = [NoAnswerKind.UNSENT] * 3
    with pytest.raises(Unavailable):
        await pays.open(order_id)
    intent = await pays.open(order_id)
    assert intent.state is KnownState.OPEN
    after = (await services.orders.get(order_id, buyer)).pay_by
    assert 0.5 < (after - before).total_seconds() < 5
    assert await db.fetchval("SELECT due_at > updated_at + interval '20 s' FROM orders")


async def test_nobody_pays_after_the_end_and_not_before_the_sweep_either(services, db):
    order_id, buyer, pays = await by_buyer(services)
    intent = await pays.open(order_id)
    pays.provider.authorize(intent.reference)
    await db.execute("UPDATE orders SET due_at = clock_timestamp()")
    assert await pays.open(order_id) is None
    await pays.tell("evt_1", intent.reference)
    assert await status(services, order_id) is S.AWAITING_PAYMENT
    await sweep(services)
    assert await status(services, order_id) is S.EXPIRED
    await pays.settle_all(db)
    assert pays.provider.held[intent.reference].state.value == "cancelled"
    assert (await services.orders.get(order_id, buyer)).pay_by is None


async def test_payment_unknown_is_resolved_by_a_webhook(services, db):
    order_id, _, pays = await by_buyer(services)
    intent = await pays.open(order_id)
    pays.provider.authorize(intent.reference)
    await pays.tell("evt_1", intent.reference)
    pays.provider.silent = [NoAnswerKind.UNKNOWN]
    await charging(services, pays.provider)(order_id)
    assert await status(services, order_id) is S.PAYMENT_UNKNOWN
    await pays.tell("evt_2", intent.reference, kind="payment_intent.succeeded")
    assert await status(services, order_id) is S.CONFIRMED
    outcomes = await db.fetch("SELECT outcome, reference FROM payment_attempts ORDER BY attempt")
    assert [tuple(row) for row in outcomes][-1] == ("captured", intent.reference)


async def test_a_webhook_outruns_the_worker_that_still_waits_for_its_answer(services, db):
    order_id, _, pays = await by_buyer(services)
    intent = await pays.open(order_id)
    pays.provider.authorize(intent.reference)
    await pays.tell("evt_1", intent.reference)
    captured, answered = asyncio.Event(), asyncio.Event()
    charge = pays.provider.charge

    async def slow(**more):
        answer = await charge(**more)
        captured.set()
        await answered.wait()
        return answer

    pays.provider.charge = slow
    worker = asyncio.create_task(charging(services, pays.provider)(order_id))
    await captured.wait()
    await pays.tell("evt_2", intent.reference, kind="payment_intent.succeeded")
    assert await status(services, order_id) is S.CONFIRMED
    answered.set()
    await worker
    assert await status(services, order_id) is S.CONFIRMED
    assert await db.fetchval("SELECT count(*) FROM payment_attempts WHERE outcome = 'captured'") == 1


async def test_a_webhook_is_written_down_once_with_one_job(services, db):
    _, _, pays = await by_buyer(services)
    fresh = await asyncio.gather(*(pays.webhook("evt_1", "pi_1") for _ in range(8)))
    assert sorted(fresh) == [False] * 7 + [True]
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'payments:event'") == 1
    assert await db.fetchval("SELECT count(*) FROM webhook_events") == 1
    await pays.take(NAME, "evt_1")
    assert await db.fetchval("SELECT taken_at IS NOT NULL FROM webhook_events"), "of no order of ours"
    assert await pays.webhook("evt_1", "pi_1") is False
    assert await pays.webhook("evt_2", None) is True
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'payments:event'") == 1


@pytest.mark.parametrize("event", [{"id": "e" * 256}, {"id": ""}, {"id": "a b"}, {"type": "x" * 256}, {"id": "é"}])
async def test_a_webhook_with_ids_that_cannot_be_kept_is_refused(services, db, event):
    body = json.dumps({"id": "evt_1", "type": "x", "reference": None, **event}).encode()
    with pytest.raises(WebhookRefused):
        await paying(services).receive(NAME, headers={"stripe-signature": "valid"}, body=body)
    assert await db.fetchval("SELECT count(*) FROM webhook_events") == 0


async def test_a_webhook_whose_job_is_lost_gets_another(services, db):
    order_id, _, pays = await by_buyer(services)
    intent = await pays.open(order_id)
    await pays.webhook("evt_1", intent.reference)
    await db.execute("DELETE FROM procrastinate_jobs")
    await db.execute("UPDATE webhook_events SET due_at = clock_timestamp()")
    assert (await pays.intents.wake(intents_max=10, events_max=10, due_s=30))[1] == 1
    pays.provider.silent = [NoAnswerKind.UNSENT]
    await pays.take(NAME, "evt_1")
    assert await db.fetchval("SELECT taken_at IS NULL AND due_at > clock_timestamp() FROM webhook_events")
    await pays.take(NAME, "evt_1")
    assert await db.fetchval("SELECT taken_at IS NOT NULL FROM webhook_events")


async def race(services, db, number, *, lead_ms):
    """Let a buyer's money, three webhooks, the end of the buyer's time and a cancellation meet; returns both ends."""
    order_id, buyer = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER)
    pays = paying(services, Provider())
    intent = await pays.open(order_id)
    pays.provider.authorize(intent.reference)
    await db.execute(
        "UPDATE orders SET due_at = clock_timestamp() + $2 * interval '1 ms' WHERE order_id = $1", order_id, lead_ms
    )
    acts = [pays.tell(f"evt_{number}_{n}", intent.reference) for n in range(3)]
    acts += [sweep(services), pays.open(order_id)]
    if number % 2:
        acts.append(services.orders.cancel(order_id, buyer))
    await asyncio.gather(*acts, return_exceptions=True)
    await charging(services, pays.provider)(order_id)
    await db.execute("SELECT pg_sleep(0.01)")
    await sweep(services)
    await db.execute("UPDATE payment_intents SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    await pays.settle_all(db)
    assert intent.reference is not None
    return await status(services, order_id), pays.provider.held[intent.reference].state.value


async def test_of_pay_expire_cancel_and_webhook_one_wins(services, db):
    ends = {await race(services, db, number, lead_ms=4 * (number % 3)) for number in range(8)}
    assert ends <= {(S.CONFIRMED, "captured"), (S.EXPIRED, "cancelled"), (S.CANCELLED, "cancelled")}
    assert len(ends) > 1


async def test_without_the_guard_money_that_came_late_takes_an_order_whose_time_is_over(services, db):
    text = await db.fetchval("SELECT pg_get_functiondef('merge_intent_v1'::regproc)")
    await db.execute(text.replace("AND _order.pay_requested_at IS NULL AND _order.due_at > _now", ""))
    ends = {await race(services, db, number, lead_ms=-1000) for number in (0, 2, 4)}
    assert (S.CONFIRMED, "captured") in ends
