"""Final orders are counted once, whatever ends, is refunded or is carried at the same time."""

import asyncio
import random
from dataclasses import replace

import asyncpg
import pytest

from flashsale.adapters.postgres.figures import PostgresFigures
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.queries import sql_root
from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.bootstrap.api import open_services
from flashsale.domain.orders import FINAL, OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.products import PaymentMode
from flashsale.usecases.figures import Sales
from tests.conftest import add_buyers, add_product
from tests.support.accepting import accept_one
from tests.support.charging import Gateway, charging
from tests.support.refunding import ADMIN, Provider, refunding, requesting

S = OrderStatus
OF_STATUS = "SELECT order_id FROM orders WHERE status = $1 ORDER BY random() LIMIT 1"
REFUND = "SELECT result FROM request_refund_v1($1, NULL, false, 'broken', $2, interval '1 minute')"
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


async def counted(db):
    """What reading every order gives."""
    rows = await db.fetch(
        "SELECT status, currency, count(*) AS orders, sum(unit_price_minor * quantity)::bigint AS minor,"
        " min(extract(EPOCH FROM updated_at))::float8 AS changed_s FROM orders GROUP BY status, currency"
    )
    return {row["status"]: row for row in rows}


async def assert_exact(services, db, product_id):
    recount = "SELECT product_id, status, sum(quantity)::bigint AS units, sum(unit_price_minor * quantity)::bigint"
    recount += " AS value_minor, sum(refunded_minor)::bigint AS refunded_minor FROM orders GROUP BY product_id, status"
    source = PostgresFigures(services.database)
    sales, known = await source.sales([product_id]), await source.sales_and_refunds([product_id])
    assert {Sales(**dict(row)) for row in await db.fetch(recount)} == {one for one in known if one.units}
    assert {replace(one, refunded_minor=0) for one in known if one.units} == {one for one in sales if one.units}
    then_s = await db.fetchval("SELECT extract(EPOCH FROM clock_timestamp())::float8")
    figures, read = await PostgresFigures(services.database).read(), await counted(db)
    assert figures.orders == {status: row["orders"] for status, row in read.items()}
    assert figures.value_minor == {(status, row["currency"]): row["minor"] for status, row in read.items()}
    now_s = await db.fetchval("SELECT extract(EPOCH FROM clock_timestamp())::float8")
    for status, row in read.items():
        if status not in FINAL:
            age_s = figures.oldest_s[status]
            assert then_s - row["changed_s"] - 0.01 <= age_s <= now_s - row["changed_s"] + 0.01, status


class Shop:
    """Does something to some order."""

    def __init__(self, services, db, product, users):
        self.services, self.db, self.product, self.users = services, db, product, users

    async def accept(self):
        if self.users:
            await accept_one(self.services, self.product, self.users.pop(), quantity=random.randint(1, 3))

    async def process(self):
        if order_id := await self.db.fetchval(OF_STATUS, S.QUEUED):
            await self.services.order_rows.process([order_id], payment_due_s=30)

    async def cancel(self):
        if order_id := await self.db.fetchval(OF_STATUS, S.AWAITING_PAYMENT):
            await self.services.order_rows.end([order_id], S.CANCELLED)

    async def pay(self, *outcomes):
        outcome = random.choice([ChargeOutcome.CAPTURED, ChargeOutcome.CAPTURED, ChargeOutcome.DECLINED])
        if order_id := await self.db.fetchval(OF_STATUS, S.AWAITING_PAYMENT):
            await charging(self.services, Gateway(random.choice([outcome, ChargeOutcome.UNKNOWN])))(order_id)
        elif order_id := await self.db.fetchval(OF_STATUS, S.PAYMENT_UNKNOWN):
            await charging(self.services, Gateway(outcome))(order_id)

    async def refund(self):
        if order_id := await self.db.fetchval(OF_STATUS, S.CONFIRMED):
            await requesting(self.services)(order_id)

    async def refund_in_part(self):
        if order_id := await self.db.fetchval(OF_STATUS, S.CONFIRMED):
            await requesting(self.services)(order_id, "0.01")
            await refunding(self.services, Provider())(order_id)

    async def refunded(self):
        if order_id := await self.db.fetchval(OF_STATUS, S.REFUND_PENDING):
            await refunding(self.services, Provider())(order_id)

    async def carry(self):
        await PostgresUpkeep(self.services.database).carry(settled_s=0, limit=random.randint(1, 4))


@pytest.mark.parametrize("seed", range(3))
async def test_figures_are_exact_after_every_step_of_orders_and_totals(services, db, seed):
    random.seed(seed)
    product = await add_product(services, allotment=100)
    shop = Shop(services, db, product, await add_buyers(services, 25))
    steps = [shop.accept, shop.accept, shop.process, shop.process, shop.pay, shop.pay, shop.cancel, shop.refund]
    steps += [shop.pay, shop.refund_in_part]
    done = set()
    for _ in range(110):
        step = random.choice([*steps, shop.refunded, shop.carry, shop.carry])
        await step()
        await assert_exact(services, db, product.product_id)
        done |= {row["status"] for row in await db.fetch("SELECT DISTINCT status FROM order_totals")}
    assert {"confirmed", "refunded"} <= done, "the walk came to the totals"
    while await PostgresUpkeep(services.database).carry(settled_s=0, limit=100) == 100:
        pass
    assert await db.fetchval("SELECT count(*) FROM order_stragglers") == len(
        await db.fetch("SELECT 1 FROM orders WHERE due_at IS NOT NULL")
    ), "nothing else is left to look at"


async def confirmed(services, db, count):
    """Confirmed orders; returns their ids."""
    product = await add_product(services, payment_mode=PaymentMode.AUTOMATIC, allotment=count)
    order_ids = [await accept_one(services, product, user) for user in await add_buyers(services, count)]
    await services.order_rows.process(order_ids, payment_due_s=30)
    for order_id in order_ids:
        await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    return order_ids


FORGET = "DELETE FROM order_totals; DELETE FROM order_stragglers; UPDATE order_mark SET order_id = first_order_id_v1('epoch')"
"""After a race that had to go wrong: the totals begin again."""


async def unguarded(db, function, guard):
    """Put a function in without its guard, as the control of a race."""
    text = (sql_root() / f"functions/{function}.sql").read_text()
    assert text.count(guard) == 1
    await db.execute(text.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").replace(guard, ""))


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_refund_that_begins_while_totals_are_carried_is_counted_once(services, db, postgres_url, guarded):
    if not guarded:
        await unguarded(db, "carry_orders_v2", "    PERFORM pg_advisory_xact_lock(7002, 0);\n")
    [order_id] = await confirmed(services, db, 1)
    asking = await asyncpg.connect(postgres_url)
    async with asking.transaction():
        assert await asking.fetchval(REFUND, order_id, ADMIN) == "requested"
        carrying = asyncio.create_task(PostgresUpkeep(services.database).carry(settled_s=0, limit=10))
        if guarded:
            async with asyncio.timeout(60):
                while not await db.fetchval(WAITS):
                    await asyncio.sleep(0.01)
        else:
            await carrying
    await carrying
    await asking.close()
    figures = await PostgresFigures(services.database).read()
    assert (figures.orders == {"refund_pending": 1}) is guarded
    await db.execute(FORGET)


@pytest.mark.parametrize("guarded", [True, False])
async def test_several_carryings_at_once_count_each_order_once(services, db, postgres_url, guarded):
    if not guarded:
        await unguarded(db, "carry_orders_v2", "    PERFORM pg_advisory_xact_lock(7002, 0);\n")
    await confirmed(services, db, 4)
    holding = await asyncpg.connect(postgres_url)
    async with holding.transaction():
        # All of them have begun before any of them writes.
        await holding.execute("LOCK TABLE order_totals IN EXCLUSIVE MODE")
        upkeep = PostgresUpkeep(services.database)
        carrying = [asyncio.create_task(upkeep.carry(settled_s=0, limit=10)) for _ in range(3)]
        async with asyncio.timeout(60):
            while await db.fetchval(WAITS) < len(carrying):
                await asyncio.sleep(0.01)
    await asyncio.gather(*carrying)
    await holding.close()
    figures = await PostgresFigures(services.database).read()
    assert (figures.orders == {"confirmed": 4}) is guarded
    await db.execute(FORGET)


async def test_the_minute_audit_looks_at_open_orders_behind_the_mark_and_the_whole_audit_at_all(settings, db):
    async with open_services(settings) as services:
        [ended] = await confirmed(services, db, 1)
        product = await add_product(services)
        still_open = await accept_one(services, product, (await add_buyers(services, 1))[0])
        await PostgresUpkeep(services.database).carry(settled_s=0, limit=10)
        invariants = PostgresInvariants(services.database, timeout_s=60)
        bounds = {"overdue_s": 3600, "stuck_s": 3600}

        async def violated(order_id):
            await db.execute("UPDATE order_events SET status = 'failed' WHERE order_id = $1 AND version = 1", order_id)
            found = [await invariants.check_recent(**bounds), await invariants.check(**bounds)]
            await db.execute("UPDATE order_events SET status = 'queued' WHERE order_id = $1 AND version = 1", order_id)
            return [{result.invariant for result in results if result.violations} for results in found]

        assert await violated(still_open) == [{"I5"}, {"I5"}]
        assert await violated(ended) == [set(), {"I5"}]
