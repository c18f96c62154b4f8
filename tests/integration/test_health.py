"""Readiness says what keeps a process from selling and what to do, at the same cost whatever is on sale."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import httpx
import pytest

from flashsale.bootstrap.api import open_services
from flashsale.http.app import build_app
from flashsale.http.streams.hub import LiveHub
from flashsale.usecases import readiness
from tests.conftest import ROOT, add_product, execute, of_this_checkout
from tests.support.namespaces import has_namespaces


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each question is a look of its own."""
    monkeypatch.setattr(readiness, "KEPT_S", 0.0)


@asynccontextmanager
async def asking(services):
    transport = httpx.ASGITransport(build_app(services, LiveHub(services)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        async def ask():
            return await client.get("/health/ready")

        yield ask


async def ready(services):
    async with asking(services) as ask:
        return await ask()


def assert_not_ready(answer, *words):
    problem = answer.json()
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"]
    assert problem["code"] == "not_ready"
    assert problem["ready"] is False
    for word in words:
        assert any(word in f"{one['what']} {one['todo']}" for one in problem["problems"]), problem


async def test_readiness_says_what_the_gate_is(services, redis):
    await services.catalog.refresh()
    async with asking(services) as ask:
        assert (await ask()).json()["gate"] == "empty", "nothing is loaded without products"
        product = await add_product(services)
        await add_product(services)
        assert (await ask()).json()["gate"] == "loaded"
        key = f"flashsale:{{{product.product_id}}}:epoch"
        await redis.delete(key)
        await redis.hset(key, "of", "another type")
        assert (await ask()).json()["gate"] == "bypass"
        await redis.flushall()
        answer = await ask()
        assert answer.status_code == 200, "the sale goes on"
        assert answer.json()["gate"] == "bypass"
        notes = answer.json()["notes"]
        assert any("2 of 2 products" in note["what"] for note in notes), notes
        assert any("LISTEN" in note["what"] for note in notes), "nobody listens in this test"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP SCHEMA public CASCADE; CREATE SCHEMA public", ["migrated", "alembic upgrade head"]),
        ("UPDATE alembic_version SET version_num = '0000'", ["revision 0000", "alembic upgrade head"]),
        ("DROP FUNCTION void_requests_v1", ["function void_requests_v1", "missing"]),
        ("ALTER TABLE orders DISABLE TRIGGER orders_transition", ["trigger orders.orders_transition", "different"]),
        (
            "ALTER TABLE products ALTER product_id SET MINVALUE 30000001 SET START 30000001 RESTART WITH 30000001",
            ["of cell 3, and this is cell 0", "FLASHSALE_CELL__NUMBER"],
        ),
    ],
)
async def test_a_schema_that_is_not_this_releases_or_another_cells_is_not_ready(settings, statement, words):
    async with open_services(settings, name="test") as services:
        await services.catalog.refresh()
        assert (await ready(services)).status_code == 200
        await execute(settings.postgres.url.get_secret_value(), statement)
        assert_not_ready(await ready(services), *words)


async def test_a_read_only_database_is_not_ready(services, db):
    name = await db.fetchval("SELECT current_database()")
    await db.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flashsale-test'")
    assert_not_ready(await ready(services))
    await db.execute("SET default_transaction_read_only = off")
    await db.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flashsale-test'")
    async with asyncio.timeout(60):
        while (await ready(services)).status_code != 200:
            await asyncio.sleep(0.05)


FULL_DISK = """
import asyncio, sys
from pathlib import Path
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.health import PostgresHealth
from flashsale.local.postgres_server import LocalPostgres
from flashsale.settings.groups import PostgresSettings
from tests.conftest import alembic

async def main(folder):
    server = LocalPostgres(folder / "pg", settings={"max_wal_size": "64MB"})
    url = await server.start()
    try:
        done = alembic(url, "upgrade", "head")
        assert done.returncode == 0, done.stderr
        database = Database(PostgresSettings(url=url), name="test")
        await database.open()
        health = PostgresHealth(database)
        print(await health.problem())
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        print(await health.problem())
        filler.unlink()
        print(await health.problem())
        await database.close()
    finally:
        await server.stop()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.skipif(not has_namespaces(), reason="needs user namespaces, to mount a small disk")
def test_a_full_disk_is_not_ready_and_ready_again_with_room(tmp_path):
    mount = 'mount -t tmpfs -o size=150m tmpfs "$0" && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    done = subprocess.run(
        [*command, str(tmp_path), sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=of_this_checkout(),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, full, after = [line for line in done.stdout.splitlines() if line.startswith("(")]
    assert (before, after) == ("(True, None)", "(True, None)")
    assert "disk is full" in full


async def test_products_that_were_not_read_yet_or_long_ago_are_not_ready(services, monkeypatch):
    refresh = services.catalog.refresh

    async def hang(*_):
        await asyncio.Event().wait()

    # The regular poll would read the products meanwhile.
    monkeypatch.setattr(services.catalog, "refresh", hang)
    await refresh()
    assert (await ready(services)).status_code == 200
    services.catalog._refreshed_at = float("-inf")
    assert_not_ready(await ready(services), "not read yet")
    services.catalog._refreshed_at = time.monotonic() - 60
    assert_not_ready(await ready(services), "were last read 6")


async def test_who_asks_often_costs_one_look_a_second_and_one_call_to_the_gate(services, redis, monkeypatch):
    monkeypatch.setattr(readiness, "KEPT_S", 60.0)
    for _ in range(20):
        await add_product(services, allotment=1)
    calls = []
    call = services.gate._servers.connection.call

    async def counted(build):
        calls.append(build)
        return await call(build)

    monkeypatch.setattr(services.gate._servers.connection, "call", counted)
    async with asking(services) as ask:
        answers = await asyncio.gather(*(ask() for _ in range(50)))
        assert {answer.json()["gate"] for answer in answers} == {"loaded"}
        assert len(calls) == 1


async def test_a_database_that_does_not_answer_is_not_ready_in_time(services, monkeypatch):
    monkeypatch.setattr(readiness, "READ_S", 0.05)

    async def silent(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(services.readiness._truth, "problem", silent)
    assert_not_ready(await ready(services), "did not answer within 0.05 s")
