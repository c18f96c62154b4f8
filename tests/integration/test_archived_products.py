"""Sales that end by a call, products that leave the lists, and what was sold of them."""

import asyncio
import uuid
from datetime import UTC, datetime

import asyncpg
import pytest

from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.domain.errors import ProductArchived, ProductNotFound, ProductOpen, SaleEnded, SaleNotStarted
from flashsale.domain.money import Money
from flashsale.domain.orders import FINAL, OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.products import PaymentMode, ProductChange
from flashsale.domain.users import Principal, Role
from tests.conftest import add_buyers, add_product, assert_invariants
from tests.support.accepting import Outcome, accept, accept_one, propose
from tests.support.charging import Gateway, charging
from tests.support.desk import open_desk
from tests.support.refunding import Provider, paid_order, refunding, requesting

LATER = datetime(2099, 1, 1, tzinfo=UTC)
UNKNOWN = 2_000_000_000


@pytest.fixture
async def desk(settings, db):
    async with open_desk(settings, db) as opened:
        yield opened


async def ended_sale(services, **changes):
    product = await add_product(services, **changes)
    return await services.administer.close(product.product_id)


async def test_a_closed_sale_takes_no_order_and_its_holds_are_paid(services, db):
    product = await add_product(services, payment_mode=PaymentMode.BY_BUYER)
    held, late = await add_buyers(services, 2)
    order_id = await accept_one(services, product, held)
    await services.order_rows.process([order_id], payment_due_s=30)
    closed = await services.administer.close(product.product_id)
    assert closed.ends_at == await db.fetchval("SELECT ends_at FROM products")
    assert await accept(services, propose(product, late)) == [Outcome.ENDED]
    again = await services.administer.close(product.product_id)
    assert (again.ends_at, again.updated_at) == (closed.ends_at, closed.updated_at)
    await services.orders.pay(order_id, Principal(user_id=held, role=Role.BUYER))
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    assert await db.fetchval("SELECT status FROM orders") == OrderStatus.CONFIRMED
    await assert_invariants(services.database)


async def test_orders_and_the_end_of_their_sale_agree_on_who_was_first(services, db):
    """The audit judges each order by the window that held at its time."""
    product = await add_product(services, allotment=200)
    buyers = await add_buyers(services, 120)
    outcomes = []

    async def buy(user_id):
        outcomes.extend(await accept(services, propose(product, user_id)))

    async with asyncio.TaskGroup() as group:
        for number, user_id in enumerate(buyers):
            group.create_task(buy(user_id))
            if number == len(buyers) // 2:
                group.create_task(services.administer.close(product.product_id))
            await asyncio.sleep(0)
    assert set(outcomes) <= {Outcome.ACCEPTED, Outcome.ENDED, Outcome.BUSY}
    assert await accept(services, propose(product, buyers[0])) == [Outcome.ENDED]
    late = (
        "SELECT count(*) FROM orders AS o INNER JOIN products AS p USING (product_id) WHERE o.created_at >= p.ends_at"
    )
    assert await db.fetchval(late) == 0
    await assert_invariants(services.database)


async def test_a_sale_that_has_not_started_or_does_not_exist_is_not_closed(services, db):
    product = await add_product(services, starts_at=LATER)
    with pytest.raises(SaleNotStarted):
        await services.administer.close(product.product_id)
    assert await db.fetchval("SELECT ends_at FROM products") is None
    for product_id in (UNKNOWN, 0, 2**31):
        with pytest.raises(ProductNotFound):
            await services.administer.close(product_id)
        with pytest.raises(ProductNotFound):
            await services.administer.archive(product_id)


async def on_sale(services, _db):
    product = await add_product(services)

    async def end():
        await services.administer.close(product.product_id)

    return product.product_id, "close or pause", end


async def open_order(services, db):
    """One that is in each state in turn, by hand, so that each is tried, whatever leads to it."""
    order_id, _ = await paid_order(services)
    product_id = await db.fetchval("SELECT product_id FROM orders WHERE order_id = $1", order_id)
    await services.administer.close(product_id)
    await db.execute("SET session_replication_role = replica")
    before = "UPDATE orders SET status = $2, due_at = CASE WHEN $2 = 'confirmed' THEN NULL ELSE now() END WHERE order_id = $1"
    for status in set(OrderStatus) - FINAL:
        await db.execute(before, order_id, status)
        with pytest.raises(ProductOpen):
            await services.administer.archive(product_id)

    async def end():
        await db.execute(before, order_id, OrderStatus.CONFIRMED)
        await db.execute("RESET session_replication_role")

    return product_id, "not final", end


async def refund_of_a_part(services, db):
    order_id, _ = await paid_order(services)
    product_id = await db.fetchval("SELECT product_id FROM orders WHERE order_id = $1", order_id)
    await services.administer.close(product_id)
    await requesting(services)(order_id, "1.00")
    assert await db.fetchval("SELECT due_at FROM orders WHERE order_id = $1", order_id) is None

    async def end():
        await refunding(services, Provider())(order_id)

    return product_id, "refund", end


async def test_a_product_is_archived_only_once_nothing_of_it_is_open(services, db):
    for what in (on_sale, open_order, refund_of_a_part):
        product_id, told, end = await what(services, db)
        before = await db.fetchrow("SELECT * FROM products WHERE product_id = $1", product_id)
        with pytest.raises(ProductOpen, match=told):
            await services.administer.archive(product_id)
        assert await db.fetchrow("SELECT * FROM products WHERE product_id = $1", product_id) == before
        await end()
        archived = await services.administer.archive(product_id)
        assert archived.paused
        assert archived.archived_at is not None
        assert await services.administer.archive(product_id) == archived


WRITTEN = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = 'products' AND column_name NOT IN ('product_id', 'epoch', 'moved_to')
"""
OTHER = {
    "text": "coalesce({0}, '') || 'x'",
    "bigint": "{0} + 1",
    "integer": "coalesce({0}, 0) + 1",
    "boolean": "NOT {0}",
    "timestamp with time zone": "coalesce({0}, now()) + interval '1 day'",
}


async def test_no_statement_changes_an_archived_product_and_control_without_the_trigger_one_does(services, db):
    product = await ended_sale(services)
    await services.administer.archive(product.product_id)
    before = await db.fetchrow("SELECT * FROM products")
    tried = 0
    for name, kind in [*await db.fetch(WRITTEN), ("archived_at", "gone")]:
        value = "NULL" if kind == "gone" else OTHER[kind].format(name)
        with pytest.raises(asyncpg.CheckViolationError, match="is archived"):
            await db.execute(f"UPDATE products SET {name} = {value}")
        tried += 1
    assert tried > 15
    assert await db.fetchrow("SELECT * FROM products") == before
    await db.execute("SELECT begin_gate_load_v2($1, $2)", product.product_id, before["epoch"])
    assert await db.fetchval("SELECT epoch FROM products") > before["epoch"], "the gate is loaded all the same"
    await db.execute("ALTER TABLE products DISABLE TRIGGER products_archived")
    await db.execute("UPDATE products SET name = 'x'")


async def test_whatever_an_administrator_changes_of_an_archived_product_is_refused(services):
    product = await ended_sale(services)
    await services.administer.archive(product.product_id)
    administer = services.administer
    for refused in (
        administer.change(product.product_id, ProductChange(fields={"paused": False})),
        administer.change(product.product_id, ProductChange(fields={"price": "1.00"})),
        administer.set_allotment(product.product_id, 11),
        administer.change_allotment(product.product_id, 1),
    ):
        with pytest.raises(ProductArchived):
            await refused
    ahead = await add_product(services, ends_at=LATER)
    await administer.change(ahead.product_id, ProductChange(fields={"paused": True}))
    await administer.archive(ahead.product_id)
    with pytest.raises(ProductArchived):
        await administer.close(ahead.product_id)


async def test_an_archived_product_leaves_the_lists_and_its_orders_stay(desk):
    gone, stays = await ended_sale(desk.services), await add_product(desk.services)
    assert (await desk.call("POST", f"/api/admin/products/{gone.product_id}/archive")).status_code == 200
    listed = [one["id"] for one in (await desk.client.get("/api/products")).json()]
    shown = [one["id"] for one in (await desk.call("GET", "/api/admin/status")).json()["products"]]
    assert listed == shown == [stays.product_id]
    for archived, expected in (("false", stays), ("true", gone)):
        answer = await desk.call("GET", f"/api/admin/products?archived={archived}")
        assert [one["id"] for one in answer.json()] == [expected.product_id]
    one = (await desk.client.get(f"/api/products/{gone.product_id}")).json()
    assert (one["id"], one["paused"], one["archivedAt"] is not None) == (gone.product_id, True, True)
    assert isinstance(desk.services.catalog.closed(gone.product_id), SaleEnded)


async def test_an_order_of_an_archived_product_can_be_refunded(services, db):
    order_id, _ = await paid_order(services)
    product_id = await db.fetchval("SELECT product_id FROM orders")
    await services.administer.close(product_id)
    await services.administer.archive(product_id)
    await requesting(services)(order_id, restock=True)
    await refunding(services, Provider())(order_id)
    assert await db.fetchval("SELECT status FROM orders") == OrderStatus.REFUNDED
    assert await db.fetchval("SELECT free FROM product_live") == await db.fetchval("SELECT allotment FROM products")
    await assert_invariants(services.database)


CURRENCIES = {
    # what a unit costs; what of it is given back first; the same as the API writes it
    "USD": (99_999, "100.50", "999.99"),
    "JPY": (1000, "7", "1000"),
    "KWD": (5120, "0.005", "5.120"),
}


async def test_figures_are_in_the_decimals_of_the_currency(desk):
    for currency, (minor, part, revenue) in CURRENCIES.items():
        order_id, _ = await paid_order(desk.services, price=Money(minor=minor, currency=currency))
        product_id = await desk.db.fetchval("SELECT product_id FROM orders WHERE order_id = $1", order_id)
        path = f"/api/admin/products/{product_id}"
        await requesting(desk.services)(order_id, part)
        await refunding(desk.services, Provider())(order_id)
        expected = {"sold": 1, "claimed": 1, "revenue": revenue, "refunded": part, "currency": currency}
        for carried in (False, True):
            if carried:
                await PostgresUpkeep(desk.services.database).carry(settled_s=0, limit=100)
            one = (await desk.call("GET", path)).json()
            assert expected.items() <= one.items()
            assert one["allotment"] == one["claimed"] + one["stock"]
            assert (await desk.call("GET", "/api/admin/products?limit=1")).json() == [one]
        # The rest.
        await requesting(desk.services)(order_id)
        await refunding(desk.services, Provider())(order_id)
        one = (await desk.call("GET", path)).json()
        assert (one["sold"], one["revenue"], one["refunded"]) == (0, revenue, revenue)


async def test_pages_list_each_product_once(desk):
    made = [(await add_product(desk.services, name=f"Phone {number}")).product_id for number in range(7)]
    paged, query = [], "?limit=3"
    while page := (await desk.call("GET", f"/api/admin/products{query}")).json():
        paged += [one["id"] for one in page]
        query = f"?limit=3&before={paged[-1]}"
    assert paged == made[::-1]
    for wrong in ("archived=1", "archived=", "archived=True", "before=0", "limit=0", "limit=501", "state=x"):
        assert (await desk.call("GET", f"/api/admin/products?{wrong}")).status_code == 400, wrong
    assert (await desk.call("GET", f"/api/admin/products/{UNKNOWN}")).status_code == 404


async def test_a_key_names_one_close_and_one_archive(desk):
    product_id = (await add_product(desk.services)).product_id
    for what in ("close", "archive"):
        key = {"Idempotency-Key": uuid.uuid4().hex}
        path = f"/api/admin/products/{product_id}/{what}"
        first, again = [await desk.call("POST", path, None, key) for _ in range(2)]
        assert first.status_code == 200, first.text
        assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
    rows = await desk.trail(object=f"product/{product_id}")
    assert [row["action"] for row in rows] == ["archiveProduct", "closeSale", "insert products"]
