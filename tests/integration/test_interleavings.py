"""What may happen at the same time: each test sets up one interleaving of statements, scripts and losses."""

import asyncio

import asyncpg
import psycopg
import pytest

from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.adapters.redis.gate import RedisGate
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.jobs import open_jobs
from flashsale.domain.errors import FlashSaleError, SalePaused, SoldOut
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome, PaymentResult
from flashsale.domain.products import PaymentMode, ProductChange
from flashsale.domain.requests import AcceptOutcome
from flashsale.usecases.return_units import ReturnUnits
from tests.conftest import add_buyers, add_product, make_settings, sweep, sweeping
from tests.support.accepting import accept, accept_one, propose, wait_for_lock
from tests.support.gates import admit, ask, flushed, state

# --- locks in Postgres ----------------------------------------------------------------------------------------------


def moves(services, order_id, product, user):
    """What changes stock, money or state of an order, each as it is called."""
    payments = PostgresPayments(services.database)
    declined = PaymentResult(
        order_id=order_id, attempt=1, outcome=ChargeOutcome.DECLINED, reference=None, retry_after_s=1
    )
    return {
        "process": lambda: services.order_rows.process([order_id], payment_due_s=30),
        "begin": lambda: payments.begin([order_id], due_s=30),
        "finish": lambda: payments.finish([declined]),
        "end": lambda: services.order_rows.end([order_id], OrderStatus.FAILED),
        "sweep": lambda: sweep(services),
        "load": lambda: services.books.begin_load(product.product_id, seen_epoch=product.epoch),
        "allotment": lambda: services.products.set_allotment(product.product_id, 5),
    }


@pytest.mark.parametrize("what", ["end", "finish"])
async def test_moves_wait_for_the_exclusive_lock_of_their_product(services, db, what):
    product = await add_product(services)
    users = await add_buyers(services, 2)
    order_id = await accept_one(services, product, users[0])
    move = moves(services, order_id, product, users[1])
    if what == "finish":
        await move["process"]()
        await move["begin"]()
    transaction = db.transaction()
    await transaction.start()
    await db.execute("SELECT pg_advisory_xact_lock(7000, $1)", product.product_id)
    moving = asyncio.create_task(move[what]())
    await wait_for_lock(db)
    assert not moving.done()
    await transaction.rollback()
    await moving


async def test_new_terms_wait_for_accepts_that_are_half_way(services, db, postgres_url):
    product = await add_product(services)
    users = await add_buyers(services, 2)
    merchant = await asyncpg.connect(postgres_url)
    transaction = db.transaction()
    await transaction.start()
    await db.execute("SELECT pg_advisory_xact_lock_shared(7000, $1)", product.product_id)
    changing = asyncio.create_task(merchant.execute("UPDATE products SET price_minor = 1"))
    await wait_for_lock(db)
    assert not changing.done()
    half_way = await db.fetchval("SELECT clock_timestamp()")
    await transaction.rollback()
    await changing
    await merchant.close()
    terms = await db.fetch(
        "SELECT price_minor, valid_from > $1 AS later FROM product_terms ORDER BY valid_from", half_way
    )
    assert [tuple(row) for row in terms] == [(99_999, False), (1, True)]
    assert await accept(services, *(propose(product, user) for user in users)) == [AcceptOutcome.ACCEPTED] * 2
    # The fixture's invariants compare what the orders cost with the terms.
    assert await db.fetchval("SELECT min(unit_price_minor) FROM orders") == 1


@pytest.mark.parametrize("what", ["load", "allotment"])
async def test_loads_and_allotments_wait_for_moves_that_are_half_way(services, db, what):
    product = await add_product(services)
    transaction = db.transaction()
    await transaction.start()
    await db.execute("SELECT pg_advisory_xact_lock_shared(7000, $1)", product.product_id)
    waiting = asyncio.create_task(moves(services, None, product, None)[what]())
    await wait_for_lock(db)
    assert not waiting.done()
    await transaction.rollback()
    assert await waiting


async def test_two_moves_of_one_order_that_meet_at_its_row_count_once(services, db):
    product = await add_product(services, allotment=5)
    order_id = await accept_one(services, product, (await add_buyers(services, 1))[0])
    end = moves(services, order_id, product, None)["end"]
    transaction = db.transaction()
    await transaction.start()
    await db.execute("SELECT 1 FROM orders WHERE order_id = $1 FOR UPDATE", order_id)
    moving = [asyncio.create_task(end()) for _ in range(2)]
    await wait_for_lock(db, len(moving))
    await transaction.rollback()
    assert sorted(map(len, await asyncio.gather(*moving))) == [0, 1]
    assert await db.fetchval("SELECT free FROM product_live") == 5


async def test_a_payment_of_an_order_that_somebody_holds_is_begun_and_finished_later_and_once(services, db):
    product = await add_product(services, allotment=5)
    order_id = await accept_one(services, product, (await add_buyers(services, 1))[0])
    move = moves(services, order_id, product, None)
    await move["process"]()
    async with db.transaction(), asyncio.timeout(60):
        await db.execute("SELECT 1 FROM orders WHERE order_id = $1 FOR UPDATE", order_id)
        assert await asyncio.gather(move["begin"](), move["begin"]()) == [[], []]
    assert len(await move["begin"]()) == 1
    async with db.transaction(), asyncio.timeout(60):
        await db.execute("SELECT 1 FROM orders WHERE order_id = $1 FOR UPDATE", order_id)
        assert await asyncio.gather(move["finish"](), move["finish"]()) == [{order_id: None}] * 2
    moved = await asyncio.gather(*(move["finish"]() for _ in range(5)))
    assert [order_id for one in moved for order_id, status in one.items() if status is not None] == [order_id]
    assert await db.fetchval("SELECT free FROM product_live") == 5


async def test_an_order_that_somebody_holds_is_left_out_of_its_batch(services, db):
    product = await add_product(services, allotment=5)
    held, other = [await accept_one(services, product, user) for user in await add_buyers(services, 2)]
    async with db.transaction(), asyncio.timeout(60):
        await db.execute("SELECT 1 FROM orders WHERE order_id = $1 FOR UPDATE", held)
        assert set(await services.order_rows.process([held, other], payment_due_s=30)) == {other}
    moved = await asyncio.gather(*(services.order_rows.process([held], payment_due_s=30) for _ in range(2)))
    assert sorted(map(len, moved)) == [0, 1]


async def test_a_new_allotment_refuses_the_leases_of_the_old_one(services):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    await services.products.set_allotment(product.product_id, 20)
    assert await accept(services, propose(product, user)) == [AcceptOutcome.STALE_EPOCH]


async def test_a_payment_that_is_asked_for_too_late_is_not_made(services, db):
    product = await add_product(services, payment_mode=PaymentMode.BY_BUYER)
    order_id = await accept_one(services, product, (await add_buyers(services, 1))[0])
    await services.order_rows.process([order_id], payment_due_s=30)
    await db.execute("UPDATE orders SET due_at = now() - interval '1 second'")
    assert not await services.order_rows.request_payment(order_id, due_s=30), (
        "the sweep has not come by, but it is over"
    )


async def test_a_pause_is_seen_whatever_isolation_the_server_gives_by_default(postgres_url, valkey, redis, db):
    await db.execute(alter_database("default_transaction_isolation = 'repeatable read'"))
    async with open_services(make_settings(postgres_url, valkey.url)) as services:
        product = await add_product(services)
        user = (await add_buyers(services, 1))[0]
        transaction = db.transaction()
        await transaction.start()
        await db.execute("SELECT pg_advisory_xact_lock(7000, $1)", product.product_id)
        await db.execute("UPDATE products SET paused = true")
        buying = asyncio.create_task(services.buy(ask(product, user)))
        await until(lambda: services.buy.propose.lanes.batches)
        await transaction.commit()
        with pytest.raises(SalePaused):
            await buying


def alter_database(what):
    quoted = what.replace("'", "''")
    return f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {quoted}', current_database()); END $$"


async def test_returns_are_forgotten_while_a_loading_forgets_them_too(services, db):
    product = await add_product(services, allotment=50)
    first, second = sorted([await accept_one(services, product, user) for user in await add_buyers(services, 2)])
    for order_id in (second, first):
        await services.order_rows.end([order_id], OrderStatus.FAILED)
    transaction = db.transaction()
    await transaction.start()
    await db.execute("SELECT 1 FROM gate_returns WHERE order_id = $1 FOR UPDATE", second)
    # The holder of a row deletes it, so the drop waits for none.
    await asyncio.wait_for(services.books.forget_returns([first, second]), 60)
    await transaction.rollback()
    assert await db.fetchval("SELECT count(*) FROM gate_returns") == 1


# --- servers that go away at a bad moment ---------------------------------------------------------------------------


class TerminatesAtRelease:
    """The pool, whose server ends the first connection after its work and before its reset; this loop has not seen it."""

    def __init__(self, pool, dsn):
        self.pool = pool
        self.dsn = dsn
        self.armed = True

    def __getattr__(self, name):
        return getattr(self.pool, name)

    async def release(self, connection, **arguments):
        if self.armed:
            self.armed = False
            with psycopg.connect(self.dsn, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.get_server_pid(),))
        await self.pool.release(connection, **arguments)


async def test_a_connection_lost_after_the_commit_loses_no_answer(services, db):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    pool = services.database._pool
    services.database._pool = TerminatesAtRelease(pool, services.settings.postgres.url.get_secret_value())
    try:
        accepted = await services.buy(ask(product, user, key="k"))
        assert not services.database._pool.armed
    finally:
        services.database._pool = pool
    assert await db.fetchval("SELECT order_id FROM orders") == accepted.order_id


async def test_a_connection_that_is_lost_while_it_is_cleaned_up_is_no_error(services):
    pool = services.database._pool
    services.database._pool = TerminatesAtRelease(pool, services.settings.postgres.url.get_secret_value())
    services.database._pool.armed = False
    try:
        async with services.database.connection() as connection:
            await connection.execute("BEGIN")
            # Now, so that it is this connection's release and nobody else's.
            services.database._pool.armed = True
        assert not services.database._pool.armed
    finally:
        services.database._pool = pool


async def test_a_server_that_only_reads_is_away(postgres_url, valkey, redis, db):
    settings = make_settings(postgres_url, valkey.url)
    async with open_services(settings) as services:
        product = await add_product(services)
        users = await add_buyers(services, 4)
    await db.execute(alter_database("default_transaction_read_only = on"))
    async with open_services(settings) as services:
        results = await asyncio.gather(*(services.buy(ask(product, user)) for user in users), return_exceptions=True)
    assert {type(result) for result in results} <= set(FlashSaleError.__subclasses__())


async def test_without_redis_the_reconciliation_leaves_the_epoch_alone(postgres_url):
    settings = make_settings(postgres_url, "redis://127.0.0.1:1/0")
    async with open_services(settings) as services, open_jobs(settings, name="test") as jobs:
        product = await add_product(services)
        before = await services.books.epoch_and_free(product.product_id)
        assert before is not None
        for _ in range(3):
            await jobs.reconcile()
        after = await services.books.epoch_and_free(product.product_id)
        assert after is not None
        assert after[0] == before[0]


# --- the gate and its loadings --------------------------------------------------------------------------------------


async def test_requests_that_waited_while_the_gate_was_loaded_are_leased_under_the_new_epoch(services):
    old = await add_product(services)
    users = await add_buyers(services, 3)
    gate = services.gate
    other = RedisGate(services.settings.redis, services.settings.gate)
    async with gate._servers.connection._lock:
        first = asyncio.create_task(services.buy(ask(old, users[0], key="a")))
        await until(lambda: gate.batches[0] == 1)
        queued = asyncio.create_task(services.buy(ask(old, users[1], key="b")))
        await until(lambda: gate._batcher.waiting == 1)
        epoch, free = await services.books.begin_load(old.product_id, seen_epoch=old.epoch)
        assert await other.load(old.product_id, epoch=epoch, stock=free)
        await services.catalog.refresh()
        newer = asyncio.create_task(services.buy(ask(old, users[2], key="c")))
        await until(lambda: gate._batcher.waiting == 2)
    await asyncio.gather(first, queued, newer)
    product = await services.catalog.get(old.product_id)
    # The first may have passed the gate by and is then one that it counts too many, which heals; no lease is stranded.
    await flushed(services, product, lambda found: found.stock >= 7 and not found.leases)
    await other.close()


async def until(check):
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0)


async def test_a_key_under_way_with_other_units_gets_a_lease_of_its_own(services):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    begun = await admit(services, product, user, key="k", quantity=8)
    assert (await services.buy(ask(product, user, key="k", quantity=1))).quantity == 1
    await flushed(services, product, lambda found: (found.stock, found.leases) == (1, 1))
    services.gate.give_back(product.product_id, begun.order_id)
    await flushed(services, product, lambda found: (found.stock, found.leases) == (9, 0))


async def test_a_buyer_for_whom_postgres_had_no_unit_has_not_used_his_limit(services, redis):
    product = await add_product(services, allotment=1, limit_per_buyer=1)
    first, second = await add_buyers(services, 2)
    order = await services.buy(ask(product, first))
    # As after an accept that bypassed the gate: it counts one too many.
    await redis.set(f"flashsale:{{{product.product_id}}}:stock", 1)
    with pytest.raises(SoldOut):
        await services.buy(ask(product, second))
    await flushed(services, product, lambda found: (found.stock, found.leases) == (0, 0))
    await services.order_rows.end([order.order_id], OrderStatus.FAILED)
    await ReturnUnits(services.books, services.gate, limit=10)()
    assert await services.buy(ask(product, second))


async def test_a_product_that_cannot_be_reconciled_keeps_nobody_waiting(services, jobs, redis, db):
    first, second = await add_product(services), await add_product(services)
    await redis.flushall()
    transaction = db.transaction()
    await transaction.start()
    await db.execute("SELECT pg_advisory_xact_lock_shared(7000, $1)", first.product_id)
    await jobs.reconcile()
    await transaction.rollback()
    await services.catalog.refresh()
    assert (await state(services, await services.catalog.get(second.product_id))).loaded


# --- sweeps and the catalog -----------------------------------------------------------------------------------------


async def test_a_sweep_goes_on_behind_orders_whose_job_still_waits(services, db):
    product = await add_product(services, allotment=50, payment_mode=PaymentMode.BY_BUYER)
    users = await add_buyers(services, 12)
    waiting = [await accept_one(services, product, user) for user in users[:11]]
    last = await accept_one(services, product, users[11])
    await services.order_rows.process([last], payment_due_s=1)
    await db.execute("UPDATE orders SET due_at = now() - interval '1 minute' WHERE order_id = ANY($1)", waiting)
    await db.execute("UPDATE orders SET due_at = now() - interval '1 second' WHERE order_id = $1", last)
    await sweeping(services, limit=5)()
    assert await db.fetchval("SELECT status FROM orders WHERE order_id = $1", last) == "expired"


async def test_a_refresh_sees_what_was_committed_before_it(services, db, monkeypatch):
    product = await add_product(services)
    reading, go = asyncio.Event(), asyncio.Event()
    read = services.products.all

    async def slow(product_ids):
        rows = await read(product_ids)
        reading.set()
        await go.wait()
        return rows

    monkeypatch.setattr(services.products, "all", slow)
    early = asyncio.create_task(services.catalog.refresh())
    await reading.wait()
    changing = asyncio.create_task(
        services.administer.change(product.product_id, ProductChange(fields={"paused": True}))
    )
    async with asyncio.timeout(60):
        while not await db.fetchval("SELECT paused FROM products"):
            await asyncio.sleep(0.01)
    assert not changing.done(), "it waits for a reading that sees its commit"
    go.set()
    assert (await changing).paused
    await early
