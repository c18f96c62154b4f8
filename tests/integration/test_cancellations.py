"""A cancelled task ends soon, and is not taken for a failure after which its caller goes on."""

from __future__ import annotations

import ast
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from flashsale.adapters.postgres.connection import Connection
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.products import PostgresProducts
from flashsale.adapters.postgres.sale_rows import PostgresSaleRows
from flashsale.adapters.postgres.trail import authored
from flashsale.domain.money import Money
from flashsale.domain.products import NewProduct, PaymentMode
from tests.conftest import make_settings

ADAPTERS = Path(__file__).parents[2] / "src/flashsale/adapters/postgres"
NEW = NewProduct(
    name="phone",
    price=Money(minor=99_999, currency="USD"),
    allotment=1,
    payment_mode=PaymentMode.AUTOMATIC,
    payment_window_s=300,
    limit_per_buyer=None,
    starts_at=None,
    ends_at=None,
)


async def write_account(database):
    async with authored(database, "note", None) as connection:
        await connection.execute("UPDATE users SET name = name")


PLACES = {
    "products.create": lambda database: PostgresProducts(database).create(NEW),
    "products._look_for": lambda database: PostgresProducts(database)._look_for(1),
    "trail.authored": write_account,
    "invariants._snapshot": lambda database: PostgresInvariants(database, timeout_s=600).check(
        overdue_s=3600, stuck_s=3600
    ),
    "sale_rows._transaction": lambda database: PostgresSaleRows(database).product(1),
}
"""What opens a transaction, by its place in the source; each waits for a lock on a table."""
OTHERS = {
    "cells.begin": "a command of its own, over a connection that asks the server to cancel",
    "health._is_full": "reads no table",
    "moves._transaction": "rolls nothing back: a transaction that fails or is cancelled ends with the command's connection",
}


def places_in_source():
    for path in sorted(ADAPTERS.glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.AsyncFunctionDef) and any(
                isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "transaction"
                for call in ast.walk(function)
            ):
                yield f"{path.stem}.{function.name}"


def test_every_place_that_opens_a_transaction_is_tried_here():
    assert sorted(places_in_source()) == sorted([*PLACES, *OTHERS])


@pytest.fixture
async def database(postgres_url, valkey, db):
    """A pool whose statements may wait for ten minutes, and do: all tables are locked."""
    limits = {"url": postgres_url, "lock_timeout_s": 600, "statement_timeout_s": 600, "pool_min": 1, "pool_max": 2}
    opened = Database(make_settings(postgres_url, valkey.url, postgres=limits).postgres, name="cancelled")
    await opened.open()
    await db.execute("BEGIN; LOCK TABLE products, users, orders, units, product_live IN ACCESS EXCLUSIVE MODE")
    yield opened
    await db.execute("ROLLBACK")
    await opened.close()


WAITING = (
    "FROM pg_stat_activity WHERE application_name = 'cancelled' AND wait_event_type = 'Lock'"
    " AND datname = current_database()"
)


class Stubborn:
    """A task that tries again after each failure, as pollers do, and the sessions in which it waits for a lock."""

    def __init__(self, look, operation):
        self._look, self._operation = look, operation
        self.failed = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        while not self.failed.is_set():
            try:
                await self._operation()
            except Exception:  # noqa: BLE001 - whatever it is, a poller goes on
                self.failed.set()

    async def waits(self):
        while not await self._look.fetchval(f"SELECT count(*) {WAITING}"):
            assert not self.task.done(), self.task
            await asyncio.sleep(0.01)

    async def lose_connections(self):
        await self._look.execute(f"SELECT pg_terminate_backend(pid) {WAITING}")


@asynccontextmanager
async def stubborn(postgres_url, operation):
    look = await asyncpg.connect(postgres_url)
    try:
        yield Stubborn(look, operation)
    finally:
        await look.execute(f"SELECT pg_terminate_backend(pid) {WAITING}")
        await look.close()


@pytest.mark.parametrize("place", PLACES)
async def test_a_task_that_is_cancelled_in_a_transaction_ends_without_the_servers_answer(postgres_url, database, place):
    async with stubborn(postgres_url, lambda: PLACES[place](database)) as trying:
        await trying.waits()
        trying.task.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait([trying.task])
        assert trying.task.cancelled()
        # What it waited for, it waits for still: nobody answered.
        assert await trying._look.fetchval(f"SELECT count(*) {WAITING}")


async def test_control_without_it_a_rollback_that_fails_hides_the_cancellation(postgres_url, database, monkeypatch):
    monkeypatch.delattr(Connection, "transaction")
    async with stubborn(postgres_url, lambda: write_account(database)) as trying:
        await trying.waits()
        trying.task.cancel()
        await trying.lose_connections()
        await trying.failed.wait()
        await asyncio.wait([trying.task])
        assert not trying.task.cancelled()


async def test_a_time_limit_holds_in_a_transaction(postgres_url, database):
    async def limited():
        async with asyncio.timeout(0.2):
            await write_account(database)

    with pytest.raises(TimeoutError):
        await limited()


async def test_a_transaction_that_is_abandoned_leaves_its_place_in_the_pool(postgres_url, database):
    for _ in range(3):
        async with stubborn(postgres_url, lambda: write_account(database)) as trying:
            await trying.waits()
            trying.task.cancel()
            await asyncio.wait([trying.task])
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1
