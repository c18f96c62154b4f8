"""Orders paid on Stripe's own page, and refunds through the Stripe adapter, against the simulator's dialect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from pydantic import SecretStr, ValidationError

from flashsale.adapters.payments.stripe import StripeGateway
from flashsale.adapters.payments.stripe_pages import StripePages
from flashsale.domain.errors import Unavailable
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import Intent, IntentState, ProviderEvent
from flashsale.domain.products import PaymentMode
from flashsale.settings.stripe import StripeSettings
from flashsale.simulator.stripe import checkout
from flashsale.usecases.story import story_of
from tests.conftest import sweep
from tests.support.charging import charging, free, status, waiting_order
from tests.support.gateway import SECRET, running
from tests.support.provider import paying
from tests.support.refunding import order_of, refunding, requesting

S = OrderStatus
PRICE = 99_999
HALF_AN_HOUR_S = 1800
HELPER = "/v1/test_helpers/checkout/sessions"


@asynccontextmanager
async def selling(services, clock=time.time, **changes):
    """The simulator, the adapter with pages, and the use cases over it."""
    async with running(rate_limit_per_s=0, account_limit_per_s=0) as service:
        settings = StripeSettings.model_construct(
            secret_key=SecretStr(SECRET),
            base_url=service.url,
            payment_method="pm_card_visa",
            return_url="http://127.0.0.1/paid?order={order_id}",
            cancel_url="http://127.0.0.1/cart",
            **changes,
        )
        async with StripeGateway(settings, connections_max=20, clock=clock) as stripe:
            gateway = StripePages(stripe, settings)
            yield service, gateway, paying(services, gateway)


async def by_buyer(services, window_s=HALF_AN_HOUR_S):
    return await waiting_order(services, payment_mode=PaymentMode.BY_BUYER, payment_window_s=window_s)


async def pay(service, reference, card="pm_card_visa"):
    """The buyer pays on the page; returns the status and the session or error."""
    return await service.ask("POST", f"{HELPER}/{reference}/pay", data={"payment_method": card})


async def session(service, reference):
    return (await service.ask("GET", f"/v1/checkout/sessions/{reference}"))[1]


async def money(service):
    """Return the amounts taken and given back, by the simulator's own books."""
    entries = [entry async for entry in service.gateway.ledger()]
    assert all(entry.captures <= 1 for entry in entries)
    return sum(entry.amount_minor for entry in entries if entry.captures), sum(e.refunded_minor for e in entries)


async def tell(pays, reference, type_):
    event = ProviderEvent(
        event_id=f"evt_{reference}_{type_}", type=type_, reference=reference, created_at=datetime.now(UTC)
    )
    await pays.intents.receive("stripe", event, due_s=30)
    await pays.take("stripe", event.event_id)


async def by_webhook_of_the_session(pays, order_id, paid):
    await tell(pays, paid["id"], "checkout.session.completed")


async def by_webhook_of_the_intent(pays, order_id, paid):
    await tell(pays, paid["payment_intent"], "payment_intent.amount_capturable_updated")


async def by_a_look(pays, order_id, paid):
    await pays.settle(order_id, 1)


@pytest.mark.parametrize("told", [by_webhook_of_the_session, by_webhook_of_the_intent, by_a_look])
async def test_an_order_paid_on_the_page_is_confirmed_however_the_payment_is_told_of(services, db, told):
    async with selling(services) as (service, gateway, pays):
        order_id, _ = await by_buyer(services)
        opened, again = [await pays.open(order_id) for _ in range(2)]
        assert opened.page_url == again.page_url == f"{service.url}/c/pay/{opened.reference}"
        assert (opened.client_secret, opened.reference[:3]) == (None, "cs_")
        made = await session(service, opened.reference)
        assert made["success_url"] == f"http://127.0.0.1/paid?order={order_id}"
        assert (await pay(service, opened.reference, "pm_card_visa_chargeDeclined"))[0] == 402
        assert (await gateway.look_up(order_id=None, reference=opened.reference, timeout_s=5)).state is IntentState.OPEN
        _, paid = await pay(service, opened.reference)
        await told(pays, order_id, paid)
        await charging(services, gateway)(order_id)
        assert await status(services, order_id) is S.CONFIRMED
        await by_webhook_of_the_session(pays, order_id, paid)
        await by_webhook_of_the_intent(pays, order_id, paid)
        rows = await db.fetch("SELECT number, reference, state, due_at FROM payment_intents")
        assert [tuple(row) for row in rows] == [(1, opened.reference, "captured", None)]
        assert await money(service) == (PRICE, 0)
        story = await story_of(services.stories, order_id)
        webhooks = {(one.facts["type"], one.facts["reference"]) for one in story.entries if one.kind == "webhook"}
        assert webhooks == {
            ("checkout.session.completed", opened.reference),
            ("payment_intent.amount_capturable_updated", paid["payment_intent"]),
        }


@pytest.mark.parametrize("paid", [None, "before the end", "after the end"])
async def test_the_session_ends_with_its_order_and_late_money_is_let_go(services, db, paid):
    async with selling(services) as (service, _, pays):
        order_id, buyer = await by_buyer(services)
        opened = await pays.open(order_id)
        if paid == "before the end":
            await pay(service, opened.reference)
        await services.orders.cancel(order_id, buyer)
        if paid == "after the end":
            await pay(service, opened.reference)
        await pays.settle_all(db)
        assert await db.fetchval("SELECT state FROM payment_intents") == "cancelled"
        assert (await session(service, opened.reference))["status"] == ("complete" if paid else "expired")
        assert (await pay(service, opened.reference))[0] == 400, "nobody can pay it any more"
        assert (await status(services, order_id), await free(db)) == (S.CANCELLED, 10)
        assert await money(service) == (0, 0)


async def test_a_window_that_is_too_short_for_a_page_gets_the_element(services):
    async with selling(services) as (_, _, pays):
        order_id, _ = await by_buyer(services, HALF_AN_HOUR_S - 1)
        opened = await pays.open(order_id)
        assert (opened.page_url, opened.reference[:3]) == (None, "pi_")


@pytest.fixture
def later(monkeypatch):
    """The clock of adapter and provider, which `later.s` moves on."""
    moved = SimpleNamespace(s=0)
    moved.clock = lambda: time.time() + moved.s
    monkeypatch.setattr(checkout, "time", SimpleNamespace(time=moved.clock))
    return moved


async def ask_while_stripe_sends_everybody_away(service, pays, order_id):
    await service.set_faults(rejectRate=1)
    with pytest.raises(Unavailable):
        await pays.open(order_id)
    await service.set_faults(rejectRate=0)


async def test_a_page_that_was_never_opened_ends_after_its_order(services, db, later):
    async with selling(services, later.clock) as (service, _, pays):
        order_id, _ = await by_buyer(services)
        await ask_while_stripe_sends_everybody_away(service, pays, order_id)
        later.s = 40 * 60
        await db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", order_id)
        await sweep(services)
        assert await status(services, order_id) is S.EXPIRED
        await db.execute("UPDATE payment_intents SET due_at = clock_timestamp()")
        await pays.settle_all(db)
        assert [tuple(row) for row in await db.fetch("SELECT number, state FROM payment_intents")] == [(1, "cancelled")]
        _, listed = await service.ask("GET", "/v1/checkout/sessions")
        assert [one["status"] for one in listed["data"]] == ["expired"]
        assert await money(service) == (0, 0)


async def test_a_buyer_pays_on_the_page_after_stripe_was_away_for_minutes(services, db, later):
    async with selling(services, later.clock) as (service, gateway, pays):
        order_id, _ = await by_buyer(services)
        await ask_while_stripe_sends_everybody_away(service, pays, order_id)
        later.s = 7 * 60
        first, second = await asyncio.gather(pays.open(order_id), pays.open(order_id))
        assert (first.page_url, first.number) == (second.page_url, 1)
        assert (await pay(service, first.reference))[0] == 200
        await pays.settle(order_id, 1)
        await charging(services, gateway)(order_id)
        assert (await status(services, order_id), await money(service)) == (S.CONFIRMED, (PRICE, 0))
        assert await db.fetchval("SELECT count(*) FROM payment_intents") == 1


async def test_a_window_of_a_day_gets_a_page_that_lives_no_longer_than_stripe_allows(services):
    async with selling(services) as (service, _, pays):
        order_id, _ = await by_buyer(services, 24 * 3600)
        made = await session(service, (await pays.open(order_id)).reference)
        assert 24 * 3600 - 90 < made["expires_at"] - made["created"] <= 24 * 3600


@pytest.mark.parametrize("fault", ["errorRate", "chargedErrorRate", "dropRate", "cutRate"])
async def test_a_page_whose_opening_went_wrong_is_found_or_ended(services, db, fault):
    async with selling(services) as (service, _, pays):
        order_id, buyer = await by_buyer(services)
        await service.set_faults(**{fault: 1})
        with contextlib.suppress(Unavailable):
            await pays.open(order_id)
        await service.set_faults(**{fault: 0})
        opened = await pays.open(order_id)
        assert opened.page_url is not None
        await services.orders.cancel(order_id, buyer)
        for _ in range(3):
            await db.execute("UPDATE payment_intents SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
            await pays.settle_all(db)
        assert {row[0] for row in await db.fetch("SELECT state FROM payment_intents")} == {"cancelled"}
        _, listed = await service.ask("GET", "/v1/checkout/sessions")
        assert {one["status"] for one in listed["data"]} == {"expired"}


@pytest.mark.parametrize("page", [True, False])
async def test_a_refund_through_the_adapter_is_made_once_while_its_webhook_races_it(services, db, page):
    async with selling(services) as (service, gateway, pays):
        order_id, _ = await by_buyer(services) if page else await waiting_order(services)
        if page:
            opened = await pays.open(order_id)
            await pay(service, opened.reference)
            await pays.settle(order_id, 1)
        await charging(services, gateway)(order_id)
        reference = await db.fetchval("SELECT reference FROM payment_attempts WHERE outcome = 'captured'")
        assert reference.startswith("cs_" if page else "pi_")
        job = refunding(services, gateway)

        async def webhook():
            intent = await gateway.look_up(order_id=None, reference=reference, timeout_s=5)
            assert isinstance(intent, Intent)
            await job.note_intent(order_id, intent)

        for amount, left in (("400.00", 59_999), (None, 0)):
            await requesting(services)(order_id, amount, restock=amount is None)
            await asyncio.gather(job(order_id), webhook(), job(order_id), webhook())
            await webhook()
            assert (await order_of(services, order_id)).refunded_minor == PRICE - left
            assert await money(service) == (PRICE, PRICE - left)
        assert await status(services, order_id) is S.REFUNDED
        states = await db.fetch("SELECT refund_key, state FROM refunds ORDER BY number")
        assert [tuple(row) for row in states] == [(f"{order_id}:refund:{n}", "succeeded") for n in (1, 2)]
        assert await free(db) == 10
        # Somebody refunds nothing more in the dashboard: the provider refuses.
        assert (await service.ask("POST", "/v1/refunds", data={"charge": "ch_none"}))[0] >= 400


@pytest.mark.parametrize(
    ("return_url", "cancel_url"),
    [
        ("https://shop.example/paid", ""),
        ("http://shop.example/paid", "https://shop.example/cart"),
        ("https://user:secret@shop.example/", "https://shop.example/cart"),
        ("javascript:alert(1)", "https://shop.example/cart"),
        ("https://shop.example/{user}", "https://shop.example/cart"),
        ("https://{order_id}/", "https://shop.example/cart"),
        ("https:///paid", "https://shop.example/cart"),
        ("https://shop.example/a b", "https://shop.example/cart"),
    ],
)
def test_an_address_that_is_no_address_of_the_shop_is_refused_at_start(return_url, cancel_url):
    with pytest.raises(ValidationError):
        StripeSettings(return_url=return_url, cancel_url=cancel_url)
    StripeSettings(return_url="https://shop.example/paid?o={order_id}", cancel_url="http://127.0.0.1:8000/cart")
