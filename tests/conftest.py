"""Real servers for the tests: one Postgres and one Valkey per test process, one fresh database per test."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import asyncpg
import pytest
import structlog

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.jobs import open_jobs
from flashsale.domain.money import Money
from flashsale.domain.products import NewProduct, PaymentMode
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.valkey_server import LocalValkey
from flashsale.settings import Settings
from flashsale.usecases.halving import Postpone
from flashsale.usecases.maintain import Sweep

ROOT = Path(__file__).parents[1]
TEMPLATE = "flashsale_template"
THROWN_AWAY = {"autovacuum": "off", "wal_compression": "off", "max_wal_size": "256MB"}
"""Settings of a server that is never started again: with `synced` off too, a database takes a fifth of the processor
time to copy."""

MEMORY_MIN = 4 * 2**30
"""Free bytes in memory from which on data is kept there; a server of the tests needs a tenth."""

# By default structlog draws each traceback with the values of all variables, in a quarter of a second.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


# A shell lets what it starts in the background ignore SIGINT, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def alembic(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run alembic as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        env={**os.environ, "FLASHSALE_POSTGRES__URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def of_this_checkout(**more: str) -> dict[str, str]:
    """Return an environment in which a process of its own imports this checkout's code, whatever is installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), **more}


def with_database(url: str, name: str) -> str:
    return url.rpartition("/")[0] + "/" + name


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def synced(url: str, *, on: bool) -> None:
    """Switch fsync of a server, and wait until new connections see it."""
    await execute(url, f"ALTER SYSTEM SET fsync = {on}", "SELECT pg_reload_conf()")
    seen = None
    while seen is not on:
        connection = await asyncpg.connect(url)
        seen = await connection.fetchval("SELECT current_setting('fsync')::boolean")
        await connection.close()


@pytest.fixture(scope="session")
def in_memory(tmp_path_factory):
    """A directory in memory if there is room: a database is copied there with half of the processor time, or less."""
    memory = Path("/dev/shm")  # noqa: S108 - the directory has a name of its own
    if not (memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_MIN):
        yield tmp_path_factory.mktemp("data")
        return
    with tempfile.TemporaryDirectory(prefix="flashsale-tests-", dir=memory) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def postgres(in_memory):
    """A Postgres server with a migrated template database. Its data is thrown away, so it need not be synced."""
    server = LocalPostgres(in_memory / "pg", settings=THROWN_AWAY)
    asyncio.run(server.start())
    asyncio.run(synced(server.url, on=False))
    asyncio.run(execute(server.url, f"CREATE DATABASE {TEMPLATE}"))
    done = alembic(with_database(server.url, TEMPLATE), "upgrade", "head")
    assert done.returncode == 0, done.stderr
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def valkey(tmp_path_factory):
    server = LocalValkey(tmp_path_factory.mktemp("valkey"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def empty_url(postgres):
    """A database without a schema."""
    name = f"t_{uuid.uuid4().hex}"
    await execute(postgres.url, f"CREATE DATABASE {name} STRATEGY FILE_COPY")
    yield with_database(postgres.url, name)
    await execute(postgres.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def postgres_url(postgres):
    """A fresh clone of the migrated template."""
    name = f"t_{uuid.uuid4().hex}"
    await execute(postgres.url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    yield with_database(postgres.url, name)
    await execute(postgres.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def redis(valkey):
    """A client of an empty Valkey, for tests that look or meddle."""
    from redis.asyncio import Redis

    client = Redis.from_url(valkey.url, decode_responses=True)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def settings(postgres_url, valkey, redis):
    return make_settings(postgres_url, valkey.url)


def make_settings(postgres_url: str, redis_url: str, **groups: dict[str, object]) -> Settings:
    given: dict[str, dict[str, object]] = {
        "postgres": {"url": postgres_url},
        # A machine that is busy for a second is no outage.
        "redis": {"url": redis_url, "timeout_s": 10},
        "auth": {"jwt_secret": "only-for-tests: 0123456789 abcdefgh"},
        "payments": {"gateway_url": "http://127.0.0.1:9", "gateway_secret": "unused"},
    }
    for name, group in groups.items():
        given[name] = {**given.get(name, {}), **group}
    return Settings(**given)


@pytest.fixture
async def services(settings):
    """Everything that an API process has; after the test the invariants hold."""
    async with open_services(settings, name="test") as opened:
        yield opened
        await assert_invariants(opened.database)


@pytest.fixture
async def jobs(settings):
    async with open_jobs(settings, name="test") as opened:
        yield opened


@pytest.fixture
async def db(postgres_url):
    """A connection for tests that look or meddle."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def assert_invariants(database: Database) -> None:
    checked = await PostgresInvariants(database, timeout_s=60).check(overdue_s=3600, stuck_s=3600)
    assert not [result for result in checked if result.violations]


async def add_product(services, **changes):
    """Create a product and load its gate; returns the product."""
    wanted = {
        "name": "Phone",
        "price": Money(minor=99_999, currency="USD"),
        "allotment": 10,
        "payment_mode": PaymentMode.AUTOMATIC,
        "payment_window_s": 300,
        "limit_per_buyer": None,
        "starts_at": None,
        "ends_at": None,
        **changes,
    }
    return await services.administer.create(NewProduct(**wanted))


async def add_buyers(services, count):
    return await services.users.create_buyers(count, prefix=f"b{uuid.uuid4().hex[:8]}")


async def sweep(services, patience_s=None):
    """Wake the due orders in one statement."""
    due = await services.order_rows.due(limit=1000)
    return await services.order_rows.sweep([order_id for order_id, _ in due], due_s=30, patience_s=patience_s)


def sweeping(services, *, limit=500, orders=None):
    """Make the use case that the maintenance worker runs."""
    orders = orders or services.order_rows
    # That of the services: it is closed with them.
    return Sweep(
        orders, services.orders._return_units, Postpone(orders, pause_s=5, pause_max_s=600), limit=limit, due_s=8
    )
