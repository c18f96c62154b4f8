"""One row, one product or one lock stops no other: every batch job leaves out what it cannot move."""

from __future__ import annotations

import asyncio
import json
import random
import re

import asyncpg
import pytest

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.queries import sql_root
from flashsale.usecases.halving import Postpone
from flashsale.usecases.process_orders import REFUSALS_MAX, ProcessOrders
from tests.conftest import add_buyers, add_product, assert_invariants, sweep, sweeping
from tests.support.orders import by_status, due, orders_of, unpaid

CHANNELS = ("flashsale_stock", "flashsale_orders")

MANY = """
INSERT INTO products (product_id, name, price_minor, currency, allotment, payment_mode, payment_window_s)
OVERRIDING SYSTEM VALUE
SELECT p, 'Phone', 100, 'USD', 1, 'by_buyer', 1 FROM unnest($1::integer []) AS p
"""
MANY_LIVE = "INSERT INTO product_live (product_id, free, version) SELECT p, $2, $3 FROM unnest($1::integer []) AS p"


# --- notifications --------------------------------------------------------------------------------------------------


async def heard(url, channel, *statement):
    """Run a statement and give the payloads that a listener hears of it."""
    connection = await asyncpg.connect(url)
    payloads: list[str] = []
    end = asyncio.Event()
    await connection.add_listener(channel, lambda *said: payloads.append(said[3]))
    await connection.add_listener("end", lambda *_: end.set())
    await connection.execute(*statement)
    await connection.execute('NOTIFY "end"')
    await asyncio.wait_for(end.wait(), 60)
    await connection.close()
    return payloads


@pytest.mark.parametrize("width", [1, 2_147_400_000])
@pytest.mark.parametrize("count", [0, 1, 79, 80, 81, 159, 161, 500, 1_000])
async def test_notifications_of_any_size_reach_their_listeners(postgres_url, db, count, width):
    ids = list(range(width, width + count))
    wide = width > 1
    await db.execute(MANY, ids)
    await db.execute(MANY_LIVE, ids, 2_000_000_000 if wide else 1, 9_223_372_036_854_775_000 if wide else 1)
    payloads = await heard(postgres_url, "flashsale_stock", "SELECT change_stock_v2($1, $2)", ids, [1] * count)
    assert [row[0] for payload in payloads for row in json.loads(payload)] == ids
    assert all(len(payload.encode()) < 8000 for payload in payloads)
    assert (count > 0) <= len(payloads) <= 1 + count // 100


async def test_notifications_of_orders_of_any_number_reach_their_listeners(services, postgres_url):
    _, orders = await unpaid(services, 300)
    payloads = await heard(postgres_url, "flashsale_orders", "SELECT notify_orders_v2($1)", orders)
    assert [row[0] for payload in payloads for row in json.loads(payload)] == [str(order_id) for order_id in orders]


def test_every_other_notification_has_a_fixed_size():
    newest: dict[str, str] = {}
    for path in sorted(sql_root().glob("functions/*.sql"), key=lambda path: int(path.stem.rpartition("_v")[2])):
        newest[path.stem.rpartition("_v")[0]] = path.read_text()
    texts = [*newest.values(), *(path.read_text() for path in sql_root().glob("queries/*.sql"))]
    said = {one for text in texts for one in re.findall(r"pg_notify\(([^)]*)\)", text)}
    fixed = {one for one in said if re.fullmatch(r"'\w+', ((new\.|_)?product_id|_\w+\.product_id)::text", one)}
    # One account and a number.
    fixed |= {one for one in said if one.startswith("'flashsale_accounts', json_build_array(old.user_id, _lowest")}
    # What a listener sends to itself is empty.
    fixed |= {one for one in said if one == "$1, ''"}
    assert {one.partition(",")[0] for one in said - fixed} == {"_channel"}, "only notify_rows says what can grow"


async def test_five_hundred_products_expire_in_one_sweep(services, db):
    # Ids of seven digits: one payload of all of them has more than 8,000 bytes.
    await db.execute("ALTER SEQUENCE products_product_id_seq RESTART 1000000")
    count = 500
    await db.execute(
        "INSERT INTO products (name, price_minor, currency, allotment, payment_mode, payment_window_s)"
        " SELECT 'Phone', 100, 'USD', 1, 'by_buyer', 1 FROM generate_series(1, $1::integer)",
        count,
    )
    await db.execute("INSERT INTO product_live (product_id, free) SELECT product_id, 1 FROM products")
    await db.execute("INSERT INTO units (product_id, unit_no) SELECT product_id, 1 FROM products")
    await services.catalog.refresh()
    buyer = (await add_buyers(services, 1))[0]
    orders = []
    for product in services.catalog.all():
        orders += await orders_of(services, product, [buyer])
    await services.order_rows.process(orders, payment_due_s=30)
    await due(db)
    ids = [product.product_id for product in services.catalog.all()]
    with pytest.raises(asyncpg.InvalidParameterValueError, match="payload string too long"):
        await db.execute("SELECT change_stock_v1($1, $2)", ids, [1] * count)
    assert (await sweep(services)).expired == count
    assert await by_status(db, orders) == {"expired": count}


# --- wrong rows -----------------------------------------------------------------------------------------------------


async def spoil_count(db, order_id):
    """Make the release of an order's units break a CHECK; returns what undoes it."""
    spoil = (
        "UPDATE buyer_units AS b SET units = {} FROM orders AS o WHERE o.order_id = '{}' AND b.user_id = o.user_id"
        " AND b.product_id = o.product_id"
    )
    await db.execute(spoil.format(0, order_id))
    return spoil.format(1, order_id)


async def spoil_return(db, order_id):
    await db.execute(
        "INSERT INTO gate_returns SELECT order_id, product_id, 1, user_id, 1 FROM orders WHERE order_id = $1", order_id
    )
    return f"DELETE FROM gate_returns WHERE order_id = '{order_id}'"


async def spoil_row(db, order_id):
    """Make the row take no change at all."""
    await db.execute(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation'; END; $$"
    )
    name = f"refuse_{order_id.hex}"
    await db.execute(
        f"CREATE TRIGGER {name} BEFORE UPDATE ON orders FOR EACH ROW WHEN (old.order_id = '{order_id}')"
        " EXECUTE FUNCTION refuse()"
    )
    return f"DROP TRIGGER {name} ON orders"


async def spoil_event(db, order_id):
    await db.execute(
        "INSERT INTO order_events SELECT order_id, version + 1, 'expired' FROM orders WHERE order_id = $1", order_id
    )
    return f"DELETE FROM order_events WHERE order_id = '{order_id}' AND version > (SELECT version FROM orders WHERE order_id = '{order_id}')"


SPOILS = (spoil_count, spoil_return, spoil_row, spoil_event)


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
async def test_one_wrong_row_keeps_no_neighbour_from_expiring(services, db, spoil):
    _, orders = await unpaid(services, 40)
    wrong = random.sample(orders, 3)
    undo = [await spoil(db, order_id) for order_id in wrong]
    await due(db) if spoil is not spoil_row else await due(db, [one for one in orders if one not in wrong])
    if spoil is spoil_row:
        await db.execute("SET session_replication_role = replica")
        await due(db, wrong)
        await db.execute("SET session_replication_role = origin")
    sweeps = sweeping(services)
    await sweeps()
    assert await by_status(db, orders) == {"expired": 37, "awaiting_payment": 3}, "in the same run"
    rows = await db.fetch("SELECT order_id, times, job, problem FROM postponed_orders")
    assert {row["order_id"] for row in rows} == set(wrong)
    assert {(row["times"], row["job"]) for row in rows} == {(1, "sweep")}
    assert all(row["problem"] for row in rows)
    assert sweeps.postponed == 3
    # Once the rows are right they expire like others, and count no more.
    for statement in undo:
        await db.execute(statement)
    await db.execute("UPDATE postponed_orders SET until = now()")
    await due(db, wrong)
    await sweeps()
    assert await by_status(db, orders) == {"expired": 40}
    assert sweeps.postponed == 0


async def test_a_wrong_order_is_met_again_after_longer_and_longer_even_if_its_row_takes_no_change(services, db):
    _, (order_id, _) = await unpaid(services, 2)
    await due(db)
    undo = await spoil_row(db, order_id)
    sweeps = sweeping(services)
    await sweeps()
    pauses = []
    for times in range(1, 10):
        row = await db.fetchrow(
            "SELECT times, extract(EPOCH FROM until - last_at)::float8 AS pause_s FROM postponed_orders"
        )
        assert row["times"] == times
        pauses.append(round(row["pause_s"]))
        await sweeps()
        assert await db.fetchval("SELECT times FROM postponed_orders") == times, "not before its time"
        await db.execute("UPDATE postponed_orders SET until = now()")
        await sweeps()
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    await db.execute(undo)


async def test_one_wrong_row_keeps_no_neighbour_from_being_processed(services, db):
    product = await add_product(services, allotment=40)
    orders = await orders_of(services, product, await add_buyers(services, 40))
    wrong = random.sample(orders, 3)
    undo = [await spoil_row(db, wrong[0]), *[await spoil_event(db, order_id) for order_id in wrong[1:]]]
    process = ProcessOrders(
        services.order_rows, Postpone(services.order_rows, pause_s=1, pause_max_s=9), payment_due_s=30
    )
    for times in range(1, REFUSALS_MAX + 1):
        await asyncio.gather(process(orders[:10]), process(orders[10:]))
        assert await by_status(db, orders) == {"awaiting_payment": 37, "queued": 3}
        assert {row["times"] for row in await db.fetch("SELECT times FROM postponed_orders WHERE job = 'process'")} <= {
            times
        }
    # Not even the end is taken: postponed like everything else.
    assert {row["job"] for row in await db.fetch("SELECT job FROM postponed_orders")} == {"fail"}
    for statement in undo:
        await db.execute(statement)


# --- busy products --------------------------------------------------------------------------------------------------

HOLDS = {
    "product": "SELECT pg_advisory_xact_lock(7000, $1)",
    "product wanted": "SELECT pg_advisory_xact_lock_shared(7000, $1)",
    "live row": "SELECT 1 FROM product_live WHERE product_id = $1 FOR UPDATE",
    "buyers": "SELECT 1 FROM buyer_units WHERE product_id = $1 FOR UPDATE",
    "orders": "SELECT 1 FROM orders WHERE product_id = $1 FOR UPDATE",
}


@pytest.mark.parametrize("hold", HOLDS, ids=str)
async def test_a_product_whose_lock_is_held_holds_no_others_orders_up(services, db, postgres_url, hold):
    busy, held = await unpaid(services, 5)
    _, others = await unpaid(services, 5)
    await due(db)
    waiter = await asyncpg.connect(postgres_url)
    waiting = None
    async with db.transaction():
        await db.execute(HOLDS[hold], busy.product_id)
        if hold == "product wanted":
            # A change waits for the lock, and every later transaction waits behind it.
            waiting = asyncio.create_task(waiter.execute("SELECT pg_advisory_lock(7000, $1)", busy.product_id))
            await asyncio.wait({waiting}, timeout=0.05)
        # It does not wait for the lock: that would end with an error, at `lock_timeout_s`.
        swept = await sweep(services)
        assert await by_status(db, others) == {"expired": 5}
        assert swept.busy == (frozenset() if hold == "orders" else {busy.product_id})
        # The whole run waits a little for the busy one, and gives up.
        await sweeping(services)()
    if waiting is not None:
        await waiting
    await waiter.close()
    await sweeping(services)()
    assert await by_status(db, held) == {"expired": 5}
    await assert_invariants(services.database)


async def test_the_first_version_of_the_sweep_waits_for_a_busy_product(services, db):
    """The control of the test above: the same locks hold everybody up."""
    busy, _ = await unpaid(services, 5)
    _, others = await unpaid(services, 5)
    await due(db)
    other = Database(services.settings.postgres, name="control")
    await other.open()
    async with db.transaction():
        await db.execute(HOLDS["product"], busy.product_id)
        async with other.connection() as connection:
            with pytest.raises(asyncpg.LockNotAvailableError):
                await connection.execute("SET lock_timeout = '300ms'; SELECT * FROM sweep_orders_v1(100, '5 s')")
        assert await by_status(db, others) == {"awaiting_payment": 5}
    await other.close()


async def test_only_orders_that_are_due_are_swept(services, db):
    _, orders = await unpaid(services, 2)
    assert await services.order_rows.due(limit=10) == []
    await due(db, orders[:1])
    assert [order_id for order_id, _ in await services.order_rows.due(limit=10)] == orders[:1]
    await services.order_rows.sweep(orders, due_s=30, patience_s=None)
    assert await by_status(db, orders) == {"expired": 1, "awaiting_payment": 1}


async def test_the_backlog_of_one_product_holds_no_other_up(services, db):
    _, backlog = await unpaid(services, 60)
    _, others = await unpaid(services, 2)
    await due(db, backlog)
    await db.execute("UPDATE orders SET due_at = now() WHERE order_id = ANY($1)", others)
    seen = []

    class Watched(type(services.order_rows)):
        async def sweep(self, order_ids, **arguments):
            seen.append(set(order_ids))
            return await super().sweep(order_ids, **arguments)

    await sweeping(services, limit=6, orders=Watched(services.database))()
    assert set(others) <= seen[0]
    assert await by_status(db, backlog + others) == {"expired": 62}


async def test_a_sweep_that_runs_is_not_joined_by_another(services, db):
    _, orders = await unpaid(services, 1)
    await due(db)
    going, go = asyncio.Event(), asyncio.Event()
    calls = 0

    class Slow(type(services.order_rows)):
        async def due(self, *, limit):
            nonlocal calls
            calls += 1
            going.set()
            await go.wait()
            return await super().due(limit=limit)

    sweeps = sweeping(services, orders=Slow(services.database))
    first = asyncio.create_task(sweeps())
    await going.wait()
    await sweeps()
    assert calls == 1
    go.set()
    await first
    assert await by_status(db, orders) == {"expired": 1}
