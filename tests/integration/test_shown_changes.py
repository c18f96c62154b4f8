"""An open page stays true: whatever changes of what it shows of a product or an order is told, and nothing else is."""

from contextlib import asynccontextmanager

import msgspec
import pytest

from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.bootstrap.api import open_services
from flashsale.domain.orders import OVER, TRANSITIONS, OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.products import PaymentMode
from flashsale.http.schemas import ProductTerms
from flashsale.pages.console.products import terms
from tests.conftest import add_product, make_settings
from tests.support import manual
from tests.support.charging import Gateway, charging, waiting_order
from tests.support.console import every_page_and_action, open_console
from tests.support.refunding import Provider, paid_order, refunding
from tests.support.watching import listening, watch_order, watch_product

NEVER = {"live": {"poll_s": 3600}}
"""What is told is told by a notification: no poll helps."""

OTHER = {
    "name": "name || ' 2'",
    "price_minor": "price_minor - 1",
    "currency": "'EUR'",
    "allotment": "allotment + 5",
    "payment_mode": "'by_buyer'",
    "payment_window_s": "payment_window_s + 1",
    "limit_per_buyer": "7",
    "limit_per": "'email_root'",
    "cooldown_s": "9",
    "refundable_by_buyer": "NOT refundable_by_buyer",
    "starts_at": "'2026-01-01T00:00:00Z'",
    "ends_at": "'2099-01-01T00:00:00Z'",
    "paused": "true",
    "created_at": "created_at - interval '1 s'",
    "updated_at": "updated_at + interval '1 s'",
    # Last: an archived product never changes again, and is told at most where it went.
    "archived_at": "clock_timestamp()",
    "moved_to": "10000001",
}
"""Another value of each column of a product that is shown."""
NOT_SHOWN = {"product_id", "epoch", "version"}
FIELDS = {"price_minor": "price"}
"""What shows a column, if it has another name."""


def camel(column):
    first, *others = column.split("_")
    return first + "".join(map(str.capitalize, others))


async def columns_of(db, table):
    found = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = $1"
    return {row["column_name"] for row in await db.fetch(found, table)}


@pytest.fixture
async def shop(postgres_url, valkey, redis):
    async with (
        open_services(make_settings(postgres_url, valkey.url, **NEVER), name="test") as services,
        listening(services) as hub,
    ):
        yield services, hub


async def test_each_column_of_a_product_that_is_shown_is_told_whatever_statement_changes_it(shop, db):
    services, hub = shop
    assert await columns_of(db, "products") == OTHER.keys() | NOT_SHOWN
    shown = {field.encode_name for field in msgspec.structs.fields(ProductTerms)}
    assert shown == {FIELDS.get(column, camel(column)) for column in OTHER} | {"id", "version"}
    product_id = (await add_product(services)).product_id
    watcher = await watch_product(services, hub, product_id)
    for column, value in OTHER.items():
        before = watcher.last("product")
        await db.execute(f"UPDATE products SET {column} = {value} WHERE product_id = $1", product_id)
        await watcher.until(lambda one, before=before: one.last("product")["version"] > before["version"])
        after = watcher.last("product")
        changed = {name for name in shown if after[name] != before[name]}
        assert changed | {"updatedAt"} == {FIELDS.get(column, camel(column)), "version", "updatedAt"}, column
    versions = [data["version"] for name, data in watcher.told if name == "product"]
    assert versions == sorted(set(versions))
    assert len(versions) == len(OTHER) + 1


async def test_a_load_of_the_gate_and_a_sold_unit_are_no_change_of_the_product(shop, db):
    """Else each accept and each load would send a product to every page."""
    services, hub = shop
    order_id, _ = await waiting_order(services)
    product_id = await db.fetchval("SELECT product_id FROM orders WHERE order_id = $1", order_id)
    watcher = await watch_product(services, hub, product_id)
    await db.execute("UPDATE products SET epoch = epoch + 1")
    await db.execute("SELECT end_orders_v2(ARRAY[$1::uuid], 'cancelled')", order_id)
    await watcher.until(lambda one: one.last("message")["stock"] == 10)
    assert [name for name, _ in watcher.told].count("product") == 1


COUNTED = {
    # While the buyer may pay, it is until when; later it is the sweep's.
    "due_at": "due_at + interval '1 minute'",
    "pay_requested_at": "clock_timestamp()",
    "refunded_minor": "refunded_minor + 1",
}
"""Columns of an order whose changes are counted, without a new state."""
OF_THE_STATE = {"status", "version", "updated_at"}
NEVER_CHANGE = {
    "order_id", "user_id", "product_id", "product_name", "quantity", "unit_price_minor", "currency", "payment_mode",
    "created_at",
}  # fmt: skip
KEPT_BACK = {"attempt": "attempt + 1", "job_id": "7", "disputed": "NOT disputed", "due_at": "due_at + interval '1 s'"}
"""What the buyer is not shown; `due_at`, because the payment has been asked for by then."""


async def test_each_column_of_an_order_that_is_shown_is_told(shop, db):
    services, hub = shop
    columns = await columns_of(db, "orders")
    assert columns == COUNTED.keys() | OF_THE_STATE | NEVER_CHANGE | KEPT_BACK.keys() | {"changes", "restocked"}
    order_id, _ = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER)
    watcher = await watch_order(services, hub, order_id)
    first = (await services.order_rows.get_many([order_id]))[order_id]
    for count, (column, value) in enumerate(COUNTED.items(), start=1):
        await db.execute(f"UPDATE orders SET {column} = {value} WHERE order_id = $1", order_id)
        wanted = {"orderId": str(order_id), "changes": first.changes + count}
        await watcher.until(lambda one, wanted=wanted: one.last("changed") == wanted)
    for column, value in KEPT_BACK.items():
        await db.execute(f"UPDATE orders SET {column} = {value} WHERE order_id = $1", order_id)
    now = (await services.order_rows.get_many([order_id]))[order_id]
    assert (now.version, now.changes) == (first.version, first.changes + len(COUNTED))
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    await watcher.until(lambda one: one.last("message")["status"] == "confirmed")
    told = [data["changes"] for name, data in watcher.told if name == "changed"]
    assert told == [first.changes + count for count in range(len(COUNTED) + 1)], "a state counts by itself"


def test_what_is_over_is_what_nothing_follows():
    assert OrderStatus.CONFIRMED not in OVER
    assert {before for before, _ in TRANSITIONS}.isdisjoint(OVER)
    assert OVER | {before for before, _ in TRANSITIONS} == set(OrderStatus)


@asynccontextmanager
async def desk(postgres_url, valkey, db):
    """A console with its hub, and an administrator's browser; money is moved by hand."""
    by_hand = make_settings(postgres_url, valkey.url, payments={"provider": "manual"}, **NEVER)
    async with open_console(by_hand, db) as console, listening(console.services) as hub:
        yield console.services, hub, await console.browser()


def of(noun):
    """Return the paths of the console's actions on a product or an order that exists."""
    _, actions = every_page_and_action()
    return {action.path for action in actions if f"{{{noun}_id:" in action.path}


async def test_whatever_staff_do_to_a_product_reaches_the_pages_that_are_open(postgres_url, valkey, redis, db):
    """Action by action, as the console has them: a new one must be told too."""
    async with desk(postgres_url, valkey, db) as (services, hub, browser):
        product = await add_product(services, payment_mode=PaymentMode.BY_BUYER)
        path = f"/console/products/{product.product_id}"
        watcher = await watch_product(services, hub, product.product_id)
        form = {**terms(product), "price": "899.99", "seen": product.updated_at.isoformat()}
        done = {
            "edit": (form, lambda shown: shown["price"] == "899.99"),
            "pause": ({}, lambda shown: shown["paused"]),
            "resume": ({}, lambda shown: not shown["paused"]),
            "stock": ({"units": "+5"}, lambda shown: shown["allotment"] == 15),
            "close": ({}, lambda shown: shown["endsAt"]),
            "archive": ({}, lambda shown: shown["archivedAt"]),
        }
        assert {path.rpartition("/")[2] for path in of("product")} == done.keys()
        for action, (fields, holds) in done.items():
            assert not holds(watcher.last("product")), action
            await browser.act(f"{path}/{action}", **fields)
            await watcher.until(lambda one, holds=holds: holds(one.last("product")))
        await watcher.until(lambda one: one.last("message")["stock"] == 15)


async def test_whatever_staff_do_to_an_order_reaches_the_pages_that_are_open(postgres_url, valkey, redis, db):
    async with desk(postgres_url, valkey, db) as (services, hub, browser):
        order_id, _ = await manual.unpaid(services)
        path = f"/console/orders/{order_id}"
        watcher = await watch_order(services, hub, order_id)
        refund = refunding(services, manual.gateway(services))
        seen = await _changes(services, order_id)

        async def told(status, *, changes=0):
            """Wait until the newest state is this one, and so many other changes were told in all."""
            await watcher.until(
                lambda one: (
                    one.last("message")["status"] == status
                    and (not changes or one.last("changed")["changes"] == seen + changes)
                )
            )

        await browser.act(f"{path}/paid", reference="t-1", amount=manual.PRICE, currency="USD")
        await told("awaiting_payment", changes=1)
        await charging(services, manual.gateway(services))(order_id)
        await told("confirmed")
        await browser.act(f"{path}/refund", amount="99.99", reason="a part")
        await browser.act(f"{path}/refunds/1/paid", reference="b-1")
        await refund(order_id)
        await told("confirmed", changes=2)
        await browser.act(f"{path}/refund", amount="", reason="the rest")
        await told("refund_pending")
        await PostgresRefunds(services.database).withdraw(order_id, 2)
        await told("confirmed")
        await browser.act(f"{path}/refund", amount="", reason="the rest, after all")
        await browser.act(f"{path}/refunds/3/paid", reference="b-3")
        await refund(order_id)
        await told("refunded")
        await watcher.until(lambda one: one.ended)

        other, _ = await manual.unpaid(services)
        watcher = await watch_order(services, hub, other)
        await browser.act(f"/console/orders/{other}/cancel")
        await told("cancelled")
        done = {"paid", "refund", "refunds/{number:int}/paid", "cancel"}
        assert {path.partition("{order_id:uuid}/")[2] for path in of("order")} == done


async def _changes(services, order_id):
    return (await services.order_rows.get_many([order_id]))[order_id].changes


async def test_a_provider_that_gives_a_part_back_is_told_without_a_new_state(shop):
    services, hub = shop
    order_id, _ = await paid_order(services)
    watcher = await watch_order(services, hub, order_id)
    before = (await services.order_rows.get_many([order_id]))[order_id]
    await services.refunds(order_id, amount="100.00", restock=False, reason="broken", requested_by=manual.OPERATOR)
    await refunding(services, Provider())(order_id)
    await watcher.until(lambda one: one.last("changed")["changes"] == before.changes + 1)
    assert (await services.order_rows.get_many([order_id]))[order_id].refunded_minor == 10_000
    assert [data["status"] for name, data in watcher.told if name == "message"] == ["confirmed"]
    assert not watcher.ended
