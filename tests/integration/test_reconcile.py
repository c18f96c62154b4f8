"""Many products: idle ones cost next to nothing, and one that is stuck keeps no other waiting."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from flashsale.adapters.postgres.database import Database
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.jobs import open_jobs
from flashsale.http.app import build_app as build_api
from flashsale.http.streams.hub import LiveHub
from flashsale.usecases.return_units import ReturnUnits
from tests.conftest import add_buyers, add_product, make_settings, sweeping
from tests.support.gates import admit, flushed, state
from tests.support.orders import by_status, due, unpaid
from workers.app import build_app, slots
from workers.maintenance import make_tasks


async def add_products(db, count):
    """Create products of one unit each, without loading their gates."""
    ids = [
        row["product_id"]
        for row in await db.fetch(
            "INSERT INTO products (name, price_minor, currency, allotment, payment_mode, payment_window_s)"
            " SELECT 'Phone', 100, 'USD', 1, 'by_buyer', 1 FROM generate_series(1, $1::integer) RETURNING product_id",
            count,
        )
    ]
    await db.execute("INSERT INTO product_live (product_id, free) SELECT unnest($1::integer []), 1", ids)
    await db.execute("INSERT INTO units (product_id, unit_no) SELECT unnest($1::integer []), 1", ids)
    return ids


async def loaded(services):
    await services.catalog.refresh()
    products = services.catalog.all()
    states = await services.gate.states({product.product_id: product.epoch for product in products})
    return {product_id for product_id, found in states.items() if found.loaded}


async def reconcile_until(jobs, services, wanted):
    async with asyncio.timeout(60):
        while not wanted <= await loaded(services):
            began_s = time.monotonic()
            await jobs.reconcile()
            assert time.monotonic() - began_s < 20, "a run ends soon after its budget"


async def scripts_run(redis):
    stats = await redis.info("commandstats")
    return stats.get("cmdstat_evalsha", {}).get("calls", 0)


async def test_idle_products_cost_few_looks_however_many_they_are(
    services, postgres_url, valkey, redis, db, monkeypatch
):
    ids = await add_products(db, 150)
    settings = make_settings(postgres_url, valkey.url, workers={"reconcile_idle": 5})
    async with open_jobs(settings, name="test") as jobs:
        await reconcile_until(jobs, services, set(ids))
        await jobs.reconcile()
        statements = 0
        fetch = Database.fetch

        async def counted(self, query, *arguments):
            nonlocal statements
            statements += 1
            return await fetch(self, query, *arguments)

        monkeypatch.setattr(Database, "fetch", counted)
        before = await scripts_run(redis)
        for _ in range(4):
            await jobs.reconcile()
        monkeypatch.undo()
        assert await scripts_run(redis) - before == 4 * 5
        # What waits to be returned, and one row for each product.
        assert statements == 4 * 2
        # All the same each has its turn: a lease that died with its process, which nothing in Postgres tells of.
        epochs = {product.product_id: product.epoch for product in services.catalog.all()}
        await redis.set(f"flashsale:{{{ids[70]}}}:stock", 0)
        monkeypatch.setattr("flashsale.usecases.reconcile.OFF_S", 0)
        for _ in range(150 // 5 + 2):
            await jobs.reconcile()
        await services.catalog.refresh()
        changed = {
            product.product_id for product in services.catalog.all() if product.epoch != epochs[product.product_id]
        }
        assert changed == {ids[70]}


async def test_a_flushed_gate_of_many_products_is_loaded_while_some_are_stuck(services, jobs, redis, db):
    ids = await add_products(db, 120)
    async with db.transaction():
        await db.execute("SELECT pg_advisory_xact_lock_shared(7000, p) FROM unnest($1::integer []) AS p", ids[:2])
        await reconcile_until(jobs, services, set(ids[2:]))
        assert await loaded(services) == set(ids[2:])
    await reconcile_until(jobs, services, set(ids))


async def test_reconciliations_never_overlap(services, jobs, redis, monkeypatch):
    monkeypatch.setattr("flashsale.usecases.reconcile.OFF_S", 0)
    products = [await add_product(services) for _ in range(3)]
    for product in products:
        await redis.set(f"flashsale:{{{product.product_id}}}:stock", 0)
    runs = 0
    live = jobs.reconcile._books.live

    async def counted():
        nonlocal runs
        runs += 1
        return await live()

    monkeypatch.setattr(jobs.reconcile._books, "live", counted)
    await asyncio.gather(*(jobs.reconcile() for _ in range(4)))
    assert runs == 1
    await services.catalog.refresh()
    assert [product.epoch for product in services.catalog.all()] == [product.epoch + 1 for product in products]


async def test_a_lease_whose_process_died_before_postgres_knew_is_given_back(services, postgres_url, valkey, redis):
    settings = make_settings(postgres_url, valkey.url, gate={"lease_s": 0.001})
    async with open_services(settings) as dying, open_jobs(settings, name="test") as jobs:
        product = await add_product(dying)
        await jobs.reconcile()
        await admit(dying, product, (await add_buyers(dying, 1))[0])
        await jobs.reconcile()
        await flushed(dying, product, lambda found: (found.stock, found.leases) == (10, 0))


# --- returns --------------------------------------------------------------------------------------------------------


async def returned(services, db, count, *, unload=None):
    """End orders of one product whose returns nobody carries; returns the product."""
    product, orders = await unpaid(services, count)
    await due(db, orders)
    await services.order_rows.sweep(orders, due_s=30, patience_s=None)
    if unload is not None:
        await unload.delete(f"flashsale:{{{product.product_id}}}:epoch")
    return product


async def test_returns_of_gates_that_take_none_keep_no_others_waiting(services, redis, db):
    stuck = [await returned(services, db, 2, unload=redis) for _ in range(6)]
    product = await returned(services, db, 3)
    limit = 5
    first = await services.books.returns(limit=limit)
    assert {row.product_id for row in first} <= {one.product_id for one in stuck}, "they alone would fill each batch"
    await ReturnUnits(services.books, services.gate, limit=limit)()
    await services.catalog.refresh()
    # The orders bypassed the gate, so it counts their 3 units and the released ones.
    assert (await state(services, await services.catalog.get(product.product_id))).stock == 6
    left = await db.fetch("SELECT product_id, count(*) AS n FROM gate_returns GROUP BY product_id ORDER BY product_id")
    assert [tuple(row) for row in left] == [(one.product_id, 2) for one in stuck]


async def test_products_take_turns_in_a_batch_of_returns(services, db):
    many, few = await returned(services, db, 40), await returned(services, db, 2)
    rows = await services.books.returns(limit=6, each=5)
    assert [row.product_id for row in rows].count(few.product_id) == 2
    assert len(rows) == 6
    assert {row.product_id for row in await services.books.returns(limit=100, but={many.product_id})} == {
        few.product_id
    }
    assert len(await services.books.returns(limit=100)) == 42


# --- slots ----------------------------------------------------------------------------------------------------------


def test_every_periodic_task_has_a_slot_of_its_own(settings):
    queues = slots("maintenance", settings.workers)
    tasks = [task.task for task in make_tasks().periodic_registry.periodic_tasks.values()]
    for queue, count in queues.items():
        # Without a lock: one that runs, and one that came meanwhile and ends at once.
        assert sum(1 if task.lock else 2 for task in tasks if task.queue == queue) <= count, queue
    urgent = {task.name for task in tasks if task.queue == "maintenance"}
    assert urgent == {"sweep", "rescue", "wake_payments", "wake_refunds"}
    assert {task.queue for task in tasks} == set(queues)


class Hanging:
    """Stands in for everything that takes long."""

    def __init__(self, jobs, sweep):
        self.jobs, self.sweep, self.began = jobs, sweep, 0
        self.hung = asyncio.Event()
        self.invariants = self

    async def __call__(self, **_):
        self.began += 1
        await self.hung.wait()
        return []

    reconcile = tidy = tend_units = check = property(lambda self: self)


@pytest.mark.parametrize("apart", [True, False])
async def test_an_order_expires_while_everything_else_of_maintenance_hangs(services, settings, jobs, db, apart):
    """Without queues of their own (the control) the sweep waits for the others."""
    _, orders = await unpaid(services, 1)
    await due(db)
    hanging = Hanging(jobs, sweeping(services))
    for task in ("reconcile", "audit", "tidy", "tend_units", "reconcile", "audit"):
        await db.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('upkeep', $1, '{\"timestamp\": 0}')",
            f"maintenance:{task}",
        )
    await db.execute(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
        " VALUES ('maintenance', 'maintenance:sweep', '{\"timestamp\": 0}')"
    )
    context = {"jobs": hanging, "stalled_s": 10.0}
    groups = [["maintenance"], ["upkeep"]] if apart else [["maintenance", "upkeep"]]
    running = []
    apps = [build_app(settings, roles=["maintenance"], concurrency=4, periodic=False) for _ in groups]
    for app, queues in zip(apps, groups, strict=True):
        await app.open_async().__aenter__()
        running.append(
            asyncio.create_task(
                app.run_worker_async(
                    queues=queues, concurrency=4, install_signal_handlers=False, additional_context=context
                )
            )
        )
    async with asyncio.timeout(60):
        while hanging.began < 4:
            await asyncio.sleep(0.01)
        while apart and await by_status(db, orders) != {"expired": 1}:
            await asyncio.sleep(0.01)
    assert await by_status(db, orders) == ({"expired": 1} if apart else {"awaiting_payment": 1})
    hanging.hung.set()
    async with asyncio.timeout(60):
        while await by_status(db, orders) != {"expired": 1}:
            await asyncio.sleep(0.01)
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for app in apps:
        await app.close_async()


# --- the catalog ----------------------------------------------------------------------------------------------------


async def test_a_loading_reads_one_product_however_many_there_are(services, redis, db, monkeypatch):
    await add_products(db, 50)
    product = await add_product(services)
    await services.catalog.refresh()
    await redis.flushall()
    asked = []
    read = services.products.all

    async def watched(product_ids=None):
        asked.append(product_ids)
        return await read(product_ids)

    monkeypatch.setattr(services.products, "all", watched)
    assert await services.load_gate(product.product_id)
    assert [product.product_id] in asked
    assert (await services.catalog.get(product.product_id)).epoch == product.epoch + 1


async def test_products_are_unavailable_rather_than_none_until_they_were_read(valkey):
    settings = make_settings("postgresql://nobody@127.0.0.1:9/none", valkey.url)
    async with open_services(settings) as services:
        transport = httpx.ASGITransport(build_api(services, LiveHub(services)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.get("/api/products")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
