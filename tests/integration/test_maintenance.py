import asyncio

from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.adapters.postgres.orders import PostgresOrders
from flashsale.domain.gate import Admission
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import PaymentMode
from flashsale.usecases.halving import Postpone
from flashsale.usecases.ports import PoisonBatch
from flashsale.usecases.process_orders import ProcessOrders
from tests.conftest import add_buyers, add_product, make_settings
from tests.support.accepting import accept_one, propose
from tests.support.gates import admit, ask, flushed, state

S = OrderStatus


async def statuses(db):
    return {row["status"] for row in await db.fetch("SELECT status FROM orders")}


async def test_an_order_whose_job_is_gone_gets_a_new_one(services, jobs, db):
    product = await add_product(services)
    order_id = await accept_one(services, product, (await add_buyers(services, 1))[0])
    for queue, move in (("orders", jobs.process_orders), ("payments", None)):
        await db.execute("DELETE FROM procrastinate_jobs")
        await jobs.sweep()
        assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs") == 0, "not due yet"
        await db.execute("UPDATE orders SET due_at = now()")
        await jobs.sweep()
        assert await db.fetchval("SELECT queue_name FROM procrastinate_jobs") == queue
        await db.execute("UPDATE orders SET due_at = now()")
        await jobs.sweep()
        assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs") == 1, "its job still waits"
        if move is not None:
            await move([order_id])


async def test_a_job_that_runs_for_a_dead_worker_counts_as_gone(services, jobs, db):
    product = await add_product(services)
    await accept_one(services, product, (await add_buyers(services, 1))[0])
    await db.execute("UPDATE procrastinate_jobs SET status = 'doing'")
    await db.execute("UPDATE orders SET due_at = now()")
    await jobs.sweep()
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'") == 1


async def test_processing_orders_twice_changes_nothing(services, db):
    product = await add_product(services)
    order_id = await accept_one(services, product, (await add_buyers(services, 1))[0])
    assert len(await services.order_rows.process([order_id], payment_due_s=30)) == 1
    assert not await services.order_rows.process([order_id], payment_due_s=30)
    assert await statuses(db) == {"awaiting_payment"}
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE queue_name = 'payments'") == 1


async def test_an_order_without_its_units_fails_instead_of_being_charged(services, jobs, db):
    product = await add_product(services)
    order_id = await accept_one(services, product, (await add_buyers(services, 1))[0], quantity=2)
    await db.execute("UPDATE units SET order_id = NULL WHERE unit_no = 1")
    await db.execute("UPDATE product_live SET free = free + 1")
    await jobs.process_orders([order_id])
    assert await statuses(db) == {"failed"}
    assert await db.fetchval("SELECT count(*) FROM units WHERE order_id IS NOT NULL") == 0


async def test_unpaid_orders_expire_and_their_units_are_sold_again(services, jobs, db):
    product = await add_product(services, allotment=1, payment_mode=PaymentMode.BY_BUYER)
    first, second = await add_buyers(services, 2)
    order = await services.buy(ask(product, first))
    await jobs.process_orders([order.order_id])
    await db.execute("UPDATE orders SET due_at = now()")
    await jobs.sweep()
    assert await statuses(db) == {"expired"}
    await flushed(services, product, lambda found: found.stock == 1)
    assert await services.buy(ask(product, second))


async def test_a_lease_past_its_deadline_is_given_back_only_if_no_order_stands(postgres_url, valkey, redis):
    from flashsale.bootstrap.api import open_services
    from flashsale.bootstrap.jobs import open_jobs

    settings = make_settings(postgres_url, valkey.url, gate={"lease_s": 0.001})
    async with open_services(settings) as services, open_jobs(settings, name="test") as jobs:
        product = await add_product(services)
        dead, alive = await add_buyers(services, 2)
        await admit(services, product, dead)
        lease = await admit(services, product, alive, key="k")
        kept = propose(product, alive, key="k", order_id=lease.order_id)
        await PostgresAcceptance(services.database, order_due_s=10).accept([kept])
        assert (await state(services, product)).stock == 8
        await jobs.reconcile()
        await flushed(services, product, lambda found: (found.stock, found.leases) == (9, 0))


async def test_a_gate_that_counts_too_few_is_reloaded_also_while_stock_moves(services, jobs, redis, db, monkeypatch):
    monkeypatch.setattr("flashsale.usecases.reconcile.OFF_S", 0.1)
    product = await add_product(services)
    await redis.set(f"flashsale:{{{product.product_id}}}:stock", 0)
    users = await add_buyers(services, 2)
    assert (await admit(services, product, users[0])).admission is Admission.SOLD_OUT
    await jobs.reconcile()
    assert (await services.books.epoch_and_free(product.product_id))[0] == product.epoch, "one look is not enough"
    async with asyncio.timeout(60):
        while (await services.books.epoch_and_free(product.product_id))[0] == product.epoch:
            await db.execute("UPDATE product_live SET version = version + 1")
            await jobs.reconcile()
    await services.catalog.refresh()
    product = await services.catalog.get(product.product_id)
    assert (await state(services, product)).stock == 10
    assert (await admit(services, product, users[1])).admission is Admission.ADMITTED


async def test_a_gate_that_counts_too_many_at_rest_is_reloaded(services, jobs, redis, monkeypatch):
    monkeypatch.setattr("flashsale.usecases.reconcile.OFF_S", 0)
    product = await add_product(services)
    await redis.set(f"flashsale:{{{product.product_id}}}:stock", 15)
    await jobs.reconcile()
    await services.catalog.refresh()
    assert (await state(services, await services.catalog.get(product.product_id))).stock == 10


async def test_a_gate_that_is_right_is_left_alone(services, jobs, monkeypatch):
    monkeypatch.setattr("flashsale.usecases.reconcile.OFF_S", 0)
    product = await add_product(services, payment_mode=PaymentMode.BY_BUYER)
    order = await services.buy(ask(product, (await add_buyers(services, 1))[0]))
    await services.order_rows.process([order.order_id], payment_due_s=30)
    await services.order_rows.end([order.order_id], S.CANCELLED)
    assert await services.books.owed([product.product_id]) == {product.product_id: 9}, "one is on its way"
    for _ in range(4):
        await jobs.reconcile()
    assert (await services.books.epoch_and_free(product.product_id))[0] == product.epoch


async def test_an_unloaded_gate_is_loaded(services, jobs, redis):
    product = await add_product(services)
    await redis.flushall()
    await jobs.reconcile()
    await services.catalog.refresh()
    assert (await state(services, await services.catalog.get(product.product_id))).stock == 10


async def test_returns_wait_for_a_gate_that_is_away_and_are_part_of_its_next_loading(services, jobs, redis, db):
    product = await add_product(services, payment_mode=PaymentMode.BY_BUYER)
    order = await services.buy(ask(product, (await add_buyers(services, 1))[0]))
    await jobs.process_orders([order.order_id])
    await redis.flushall()
    await services.order_rows.end([order.order_id], S.CANCELLED)
    assert await db.fetchval("SELECT count(*) FROM gate_returns") == 1
    await jobs.reconcile()
    await services.catalog.refresh()
    assert (await state(services, await services.catalog.get(product.product_id))).stock == 10
    assert await db.fetchval("SELECT count(*) FROM gate_returns") == 0


async def test_a_loading_that_lost_the_race_changes_nothing(services):
    product = await add_product(services)
    assert await services.books.begin_load(product.product_id, seen_epoch=product.epoch - 1) is None
    assert await services.books.begin_load(product.product_id, seen_epoch=product.epoch) == (
        product.epoch + 1,
        10,
    )


class RefusingOrders(PostgresOrders):
    """Refuses every order permanently, as Postgres does if a statement cannot work."""

    async def process(self, order_ids, *, payment_due_s):
        raise PoisonBatch("refused", unknown_user=False)


class CountingOrders(PostgresOrders):
    """Notes how many orders each transaction was asked to move."""

    asked: tuple[int, ...] = ()

    async def process(self, order_ids, *, payment_due_s):
        self.asked += (len(order_ids),)
        return await super().process(order_ids, payment_due_s=payment_due_s)


async def test_order_jobs_that_run_at_the_same_time_share_a_transaction(services, db):
    product = await add_product(services)
    order_ids = [await accept_one(services, product, user) for user in await add_buyers(services, 4)]
    orders = CountingOrders(services.database)
    process = ProcessOrders(orders, Postpone(orders, pause_s=1, pause_max_s=9), payment_due_s=30)
    await asyncio.gather(process(order_ids[:1]), process(order_ids[1:3]), process(order_ids[3:]))
    assert orders.asked == (4,)
    assert await statuses(db) == {"awaiting_payment"}
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE queue_name = 'payments'") == 4


async def test_an_order_that_postgres_refuses_again_and_again_fails_and_gives_its_units_back(services, db):
    product = await add_product(services)
    order_ids = [await accept_one(services, product, user) for user in await add_buyers(services, 3)]
    orders = RefusingOrders(services.database)
    process = ProcessOrders(orders, Postpone(orders, pause_s=1, pause_max_s=9), payment_due_s=30)
    for _ in range(2):
        await process(order_ids)
        assert await db.fetchval("SELECT count(*) FROM orders WHERE status = 'queued'") == 3
    await process(order_ids)
    assert await db.fetchval("SELECT count(*) FROM orders WHERE status = 'failed'") == 3
    assert await db.fetchval("SELECT free FROM product_live") == 10
