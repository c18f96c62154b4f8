"""Money at Stripe that is not what it seems: a part that was captured, a second payment, refunds that bounce, another
account's key; against the simulator's dialect.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.adapters.postgres.settlement import PostgresSettledOrders
from flashsale.domain.messages import Event
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import PaymentMode
from flashsale.usecases.settle import Settle
from flashsale.usecases.webhooks import TakeEvent
from tests.conftest import sweep
from tests.integration.test_stripe_pages import PRICE, money, selling, tell
from tests.support.charging import charging, free, status, waiting_order
from tests.support.provider import Paying
from tests.support.refunding import order_of, refunding, requesting

S = OrderStatus
INTENTS = "/v1/payment_intents"
CARD = {"payment_method": "pm_card_visa"}
SINCE = datetime(2020, 1, 1, tzinfo=UTC)


def with_refunds(services, gateway, pays) -> Paying:
    """Let webhooks tell of refunds and disputes too, as in a worker."""
    note = refunding(services, gateway).note_intent
    pays.take = TakeEvent(pays.intents, gateway, services.settings.payments, pays.settle, hooks=[note])
    return pays


async def differences(services, gateway):
    settle = Settle(PostgresSettledOrders(services.database), gateway)
    return [(one.order_id, one.cause) async for one in settle(since=SINCE, now=datetime.now(UTC))]


async def held(services, pays):
    """An order whose buyer's money is held; returns its id and that of the intent."""
    order_id, _ = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER)
    return order_id, (await pays.open(order_id)).reference


async def paid(services, gateway):
    """An order that was charged automatically; returns its id and that of the intent."""
    order_id, _ = await waiting_order(services)
    await charging(services, gateway)(order_id)
    assert await status(services, order_id) is S.CONFIRMED
    found = await gateway.look_up(order_id=order_id, timeout_s=5)
    return order_id, found.reference


async def refunds_at(service, reference):
    return (await service.ask("GET", f"/v1/refunds?payment_intent={reference}"))[1]["data"]


async def expired(services, db, order_id):
    await db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", order_id)
    await sweep(services)
    assert await status(services, order_id) is S.EXPIRED


@pytest.mark.parametrize("told", ["by a webhook", "by a look", "by the charge"])
async def test_a_part_that_somebody_captured_never_confirms_an_order(services, db, told):
    async with selling(services) as (service, gateway, pays):
        order_id, reference = await held(services, with_refunds(services, gateway, pays))
        await service.ask("POST", f"{INTENTS}/{reference}/confirm", data=CARD)
        if told == "by the charge":
            await tell(pays, reference, "payment_intent.amount_capturable_updated")
        await service.ask("POST", f"{INTENTS}/{reference}/capture", data={"amount_to_capture": 100})
        if told == "by a webhook":
            await tell(pays, reference, "payment_intent.succeeded")
        elif told == "by the charge":
            await charging(services, gateway)(order_id)
            assert await status(services, order_id) is S.PAYMENT_UNKNOWN
        await db.execute("UPDATE payment_intents SET due_at = clock_timestamp()")
        await pays.settle(order_id, 1)
        assert await status(services, order_id) is not S.CONFIRMED
        assert await services.order_rows.count_postponed() == 1, "a person is told"
        assert await differences(services, gateway) == [(str(order_id), "amount_differs")]
        if told != "by the charge":
            await expired(services, db, order_id)
            await pays.settle_all(db)
            assert [one["amount"] for one in await refunds_at(service, reference)] == [100], "what was taken"
            assert await db.fetchval("SELECT state FROM payment_intents") == "refunded"
            assert await differences(services, gateway) == []


async def second_payment(service, order_id, **more):
    """Another program takes money in the order's name."""
    form = {
        "amount": PRICE, "currency": "usd", "payment_method_types[0]": "card", "confirm": "true",
        "metadata[order_id]": str(order_id), **CARD, **more,
    }  # fmt: skip
    code, made = await service.ask("POST", INTENTS, data=form)
    assert (code, made["status"]) == (200, "succeeded")
    return made["id"]


async def test_a_second_payment_is_given_back_and_the_order_stays_paid(services, db):
    async with selling(services) as (service, gateway, pays):
        with_refunds(services, gateway, pays)
        order_id, _ = await paid(services, gateway)
        others = [await second_payment(service, order_id) for _ in range(2)]
        for other in others:
            await tell(pays, other, "payment_intent.succeeded")
        await pays.settle_all(db)
        assert await money(service) == (3 * PRICE, 2 * PRICE)
        for type_ in ("charge.refunded", "refund.created", "refund.updated"):
            for other in others:
                await tell(pays, other, type_)
        order = await order_of(services, order_id)
        assert (order.status, order.refunded_minor, await db.fetchval("SELECT count(*) FROM refunds")) == (
            S.CONFIRMED, 0, 0,
        )  # fmt: skip
        assert await differences(services, gateway) == []


async def test_a_dispute_of_a_second_payment_does_not_block_the_order_s_refund(services, db):
    async with selling(services) as (service, gateway, pays):
        with_refunds(services, gateway, pays)
        order_id, _ = await paid(services, gateway)
        second = await second_payment(service, order_id)
        await service.ask("POST", f"/v1/test_helpers/payment_intents/{second}/dispute")
        await tell(pays, second, "charge.dispute.created")
        await requesting(services)(order_id)
        await refunding(services, gateway)(order_id)
        assert await status(services, order_id) is S.REFUNDED


async def bounce(service, reference):
    (made,) = await refunds_at(service, reference)
    assert (await service.ask("POST", f"/v1/test_helpers/refunds/{made['id']}/fail"))[0] == 200


@pytest.mark.parametrize("made", ["here", "at the provider"])
async def test_a_webhook_tells_that_the_only_refund_bounced(services, db, made):
    async with selling(services) as (service, gateway, pays):
        with_refunds(services, gateway, pays)
        order_id, reference = await paid(services, gateway)
        if made == "here":
            await requesting(services)(order_id, restock=True)
            await refunding(services, gateway)(order_id)
        else:
            await service.ask("POST", "/v1/refunds", data={"payment_intent": reference})
            await tell(pays, reference, "charge.refunded")
        assert await status(services, order_id) is S.REFUNDED
        await bounce(service, reference)
        for type_ in ("refund.failed", "refund.updated", "charge.refund.updated"):
            await tell(pays, reference, type_)
        row = await db.fetchrow("SELECT state, problem, bounced_at IS NOT NULL AS bounced FROM refunds")
        assert tuple(row) == ("succeeded", "expired_or_canceled_card", True)
        assert await status(services, order_id) is S.REFUNDED
        assert await free(db) == (10 if made == "here" else 9)


async def test_late_money_that_bounces_is_told_once(services, db):
    outbox = PostgresOutbox(services.database)
    assert await outbox.add_endpoint("wh_a", "https://shop.example/", "whsec_AA==", list(Event), targets_max=9)
    async with selling(services) as (service, gateway, pays):
        order_id, reference = await held(services, with_refunds(services, gateway, pays))
        await expired(services, db, order_id)
        await service.ask("POST", f"{INTENTS}/{reference}/confirm", data=CARD)
        await service.ask("POST", f"{INTENTS}/{reference}/capture")
        await pays.settle_all(db)
        assert await db.fetchval("SELECT state FROM payment_intents") == "refunded"
        await tell(pays, reference, "charge.refunded")
        assert await db.fetchval("SELECT problem FROM payment_intents") is None
        await bounce(service, reference)
        for type_ in ("refund.failed", "refund.updated"):
            await tell(pays, reference, type_)
        assert await db.fetchval("SELECT problem FROM payment_intents") == "refund"
        told = await db.fetch("SELECT event FROM outbox WHERE event LIKE '%refund%' ORDER BY created_at")
        assert [row["event"] for row in told] == ["order.refunded", "order.refund_failed"]


async def test_a_part_that_stripe_cannot_give_back_fails_and_another_can_follow(services, db):
    async with selling(services) as (service, gateway, _):
        order_id, _ = await waiting_order(services, price=Money(minor=10_000, currency="KWD"))
        await charging(services, gateway)(order_id)
        for amount in ("0.005", "1.000"):
            await requesting(services)(order_id, amount)
            await refunding(services, gateway)(order_id)
        rows = await db.fetch("SELECT amount_minor, state, problem FROM refunds ORDER BY number")
        assert [tuple(row) for row in rows] == [(5, "failed", "amount"), (1_000, "succeeded", None)]
        assert await money(service) == (10_000, 1_000)


async def test_with_the_key_of_another_account_a_refund_and_a_webhook_wait(services, db):
    async with selling(services) as (service, gateway, pays), selling(services) as (_, other, elsewhere):
        with_refunds(services, gateway, pays)
        with_refunds(services, other, elsewhere)
        order_id, reference = await paid(services, gateway)
        await requesting(services)(order_id, "400.00")
        # Made, and its answer lost.
        await service.set_faults(chargedErrorRate=1)
        await refunding(services, gateway)(order_id)
        await service.set_faults(chargedErrorRate=0)
        assert await db.fetchval("SELECT sent FROM refunds")
        await refunding(services, other)(order_id)
        assert await db.fetchval("SELECT state FROM refunds") == "pending", "nobody asks for it a second time"
        await tell(elsewhere, reference, "charge.refunded")
        assert await db.fetchval("SELECT taken_at IS NULL AND due_at > clock_timestamp() FROM webhook_events")
        await pays.take("stripe", await db.fetchval("SELECT event_id FROM webhook_events"))
        assert await db.fetchval("SELECT taken_at IS NOT NULL FROM webhook_events")
        assert await db.fetchval("SELECT state FROM refunds") == "succeeded"
        assert await money(service) == (PRICE, 40_000)
