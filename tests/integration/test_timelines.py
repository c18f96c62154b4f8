"""After a restore or a failover counters go back; what clients are shown is the database's value, and no version goes back."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from flashsale.adapters.postgres import feed
from flashsale.adapters.postgres.timeline import adopt_timeline
from flashsale.bootstrap.api import open_services
from flashsale.domain.errors import Unavailable
from flashsale.domain.products import ProductChange
from flashsale.http.streams.channel import ENDED, Stream
from flashsale.http.streams.hub import LiveHub
from flashsale.local.access import free_port
from flashsale.local.binaries import postgres_bin
from flashsale.local.postgres_server import LocalPostgres
from tests.conftest import add_buyers, add_product, alembic, execute, make_settings, with_database
from tests.support.accepting import accept_one

SOON_S = 20.0


class Client:
    """What a client of a stream was sent."""

    def __init__(self, hub, channel, *, last=0, details=ENDED):
        self.events = []
        self.ended = False
        hub.join(channel, Stream(channel, last, self.send, details=details))

    async def send(self, message):
        self.ended = self.ended or not message["more_body"]
        for line in message["body"].decode().splitlines():
            if line.startswith("data: "):
                self.events.append(json.loads(line.removeprefix("data: ")))

    async def until(self, check):
        async with asyncio.timeout(SOON_S):
            while not (self.events and check(self.events[-1])):
                await asyncio.sleep(0.02)

    def versions_rise(self):
        versions = [event["version"] for event in self.events]
        return versions == sorted(set(versions)) and versions[-1] < 2**53


@asynccontextmanager
async def watched(url, valkey):
    """An API process' services and its live hub."""
    async with open_services(make_settings(url, valkey.url, live={"poll_s": 0.2})) as services:
        hub = LiveHub(services)
        running = asyncio.create_task(hub.run())
        try:
            yield services, hub
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class Crowd:
    """A product and two orders, with a client that watches each; one order is younger than the copy."""

    def __init__(self, services, hub):
        self.services = services
        self.hub = hub

    async def watch(self, product, old_order):
        self.product, self.old_order = product, old_order
        await self.services.catalog.refresh()
        self.stock = Client(self.hub, await self.hub.stock(product.product_id))
        # The streams' own memory of an order is weak: it lives as long as somebody has its channel.
        self.channels = [self.hub.order(old_order)]
        self.old = Client(self.hub, self.channels[0])
        self.hub.put_order(self.channels[0], (await self.services.order_rows.get_many([old_order]))[old_order])
        await self.stock.until(lambda event: event["stock"] == 9)
        await self.old.until(lambda event: event["status"] == "queued")
        # It is told of the product alone: no stock is newer than what it says it has.
        self.terms = Client(self.hub, await self.hub.stock(product.product_id), last=ENDED - 1, details=0)
        await self.terms.until(lambda event: event["name"] == "Phone")

    async def sell_after_the_copy(self):
        user = (await add_buyers(self.services, 1))[0]
        for _ in range(3):
            young = await accept_one(self.services, self.product, user)
        await self.services.order_rows.process([self.old_order], payment_due_s=60)
        self.channels.append(self.hub.order(young))
        self.young = Client(self.hub, self.channels[1])
        self.hub.put_order(self.channels[1], (await self.services.order_rows.get_many([young]))[young])
        await self.stock.until(lambda event: event["stock"] == 6)
        await self.old.until(lambda event: event["status"] == "awaiting_payment")
        await self.services.administer.change(self.product.product_id, ProductChange(fields={"name": "Lost"}))
        await self.terms.until(lambda event: event["name"] == "Lost")

    async def sees_what_is_there_now(self):
        """Wait until everybody sees the restored database; nobody saw a version go back."""
        last = self.stock.events[-1]["version"]
        await self.stock.until(lambda event: event["stock"] == 9)
        await self.old.until(lambda event: event["status"] == "queued")
        assert self.services.catalog.stock(self.product.product_id).free == 9
        [stock] = await self.services.products.stocks()
        assert self.stock.events[-1]["version"] == stock.version > last
        assert self.stock.versions_rise()
        assert self.old.versions_rise()
        await self.terms.until(lambda event: event["name"] == "Phone")
        assert self.terms.versions_rise()
        assert (await self.services.order_rows.get_many([self.old_order]))[self.old_order].version == (
            self.old.events[-1]["version"]
        ), "a client that polls and one that watches see the same"
        back = Client(self.hub, await self.hub.stock(self.product.product_id), last=last)
        await back.until(lambda event: event["stock"] == 9)
        async with asyncio.timeout(SOON_S):
            while not self.young.ended:
                await asyncio.sleep(0.02)
        await accept_one(self.services, self.product, (await add_buyers(self.services, 1))[0])
        await self.stock.until(lambda event: event["stock"] == 8)
        assert self.stock.versions_rise()


async def begin_sale(url, valkey):
    """Make a product of ten units and sell one; returns both, nobody is connected afterwards."""
    async with open_services(make_settings(url, valkey.url)) as services:
        product = await add_product(services)
        return product, await accept_one(services, product, (await add_buyers(services, 1))[0])


@pytest.mark.parametrize("how", ["another database takes the name", "into the same database"])
async def test_a_restored_copy_is_shown_within_seconds(postgres, postgres_url, valkey, redis, monkeypatch, how):
    monkeypatch.setattr(feed, "HEARTBEAT_S", 0.2)
    name = urlsplit(postgres_url).path[1:]
    product, order_id = await begin_sale(postgres_url, valkey)
    await execute(postgres.url, f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    async with watched(postgres_url, valkey) as (services, hub):
        crowd = Crowd(services, hub)
        await crowd.watch(product, order_id)
        await crowd.sell_after_the_copy()
        if how == "another database takes the name":
            await execute(
                postgres.url,
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
                f"ALTER DATABASE {name} RENAME TO {name}_old",
                f"ALTER DATABASE {name}_copy RENAME TO {name}",
            )
        else:
            await restore_into(postgres_url, with_database(postgres.url, f"{name}_copy"))
        await crowd.sees_what_is_there_now()
    await execute(postgres.url, f"DROP DATABASE IF EXISTS {name}_old", f"DROP DATABASE IF EXISTS {name}_copy")


async def restore_into(url, copy_url):
    """Put the rows of a copy into a database that is in use, as `pg_restore --data-only` after a TRUNCATE does."""
    tables = ["users", "products", "product_live", "requests", "buyer_units", "orders", "order_events", "timeline"]
    copy, target = await asyncpg.connect(copy_url), await asyncpg.connect(url)
    async with target.transaction():
        await target.execute("SET LOCAL session_replication_role = replica")
        units = await copy.fetch("SELECT * FROM units")
        await target.execute(f"TRUNCATE {', '.join(tables)}, units CASCADE")
        for table in [*tables, "units"]:
            rows = units if table == "units" else await copy.fetch(f"SELECT * FROM {table}")
            if rows:
                fields, values = ", ".join(rows[0].keys()), ", ".join(f"${i + 1}" for i in range(len(rows[0])))
                await target.executemany(
                    f"INSERT INTO {table} ({fields}) OVERRIDING SYSTEM VALUE VALUES ({values})",
                    [tuple(row) for row in rows],
                )
    await copy.close()
    await target.close()


async def test_a_standby_that_lagged_and_was_promoted_is_shown_within_seconds(tmp_path, valkey, redis):
    primary, standby = LocalPostgres(tmp_path / "primary"), LocalPostgres(tmp_path / "standby")
    await primary.start()
    try:
        await execute(primary.url, "CREATE DATABASE shop")
        assert alembic(with_database(primary.url, "shop"), "upgrade", "head").returncode == 0
        product, order_id = await begin_sale(with_database(primary.url, "shop"), valkey)
        there = urlsplit(primary.url)
        port = free_port()
        (tmp_path / "standby").mkdir(mode=0o711)
        (tmp_path / "standby" / "access").write_text(f"{port} {there.password}\n")
        program = postgres_bin(None, copies=tmp_path, for_everybody=False) / "pg_basebackup"
        cluster = tmp_path / "standby" / "cluster"
        copying = [program, "-d", primary.url, "-D", cluster, "-X", "stream", "-c", "fast"]
        await asyncio.to_thread(subprocess.run, copying, check=True, capture_output=True)
        # It is told of no primary: what is sold from now on it never receives.
        (cluster / "standby.signal").touch()
        await standby.start()
        hosts = f"127.0.0.1:{port},127.0.0.1:{there.port}"
        url = f"postgresql://flashsale:{there.password}@{hosts}/shop"
        async with watched(url, valkey) as (services, hub):
            crowd = Crowd(services, hub)
            await crowd.watch(product, order_id)
            assert await services.database.takes_writes(), "the standby comes first in the URL and is left alone"
            await crowd.sell_after_the_copy()
            await primary.kill()
            with pytest.raises(Unavailable):
                await services.products.stocks()
            with pytest.raises(Unavailable):
                await services.database.takes_writes()
            assert services.catalog.stock(product.product_id).free == 6
            await execute(with_database(standby.url, "shop"), "SELECT pg_promote()")
            await crowd.sees_what_is_there_now()
            # A crash may lose what was not on disk: each start is a time line of its own.
            before = crowd.stock.events[-1]["version"]
            await standby.kill()
            await standby.start()
            await crowd.stock.until(lambda event: event["version"] > before + 1000)
            assert crowd.stock.events[-1]["stock"] == 8
            assert crowd.stock.versions_rise()
    finally:
        await primary.kill()
        await standby.kill()


async def test_processes_that_notice_at_the_same_time_begin_one_time_line(postgres_url, db):
    connections = [await asyncpg.connect(postgres_url) for _ in range(10)]
    bases = []
    for _ in range(3):
        await db.execute("UPDATE timeline SET life = 'another server'")
        found = await asyncio.gather(*(adopt_timeline(connection) for connection in connections))
        assert len(set(found)) == 1
        bases.append(found[0])
    assert bases == sorted(set(bases))
    assert await adopt_timeline(db) == bases[-1], "the same server, the same time line"
    for connection in connections:
        await connection.close()


async def test_a_clock_that_went_back_does_not_take_versions_back(db):
    far = 8_000_000_000_000_000
    await db.execute("UPDATE timeline SET life = 'another server', base = $1", far)
    assert await adopt_timeline(db) == far + 1


async def test_a_role_without_privileges_over_the_server_can_adopt_a_time_line(db):
    async with db.transaction():
        await db.execute("UPDATE timeline SET life = 'another server'")
        await db.execute(
            "CREATE ROLE plain; GRANT SELECT, UPDATE ON timeline TO plain; "
            "GRANT EXECUTE ON FUNCTION adopt_timeline_v1 TO plain; SET LOCAL ROLE plain"
        )
        assert await adopt_timeline(db) == await adopt_timeline(db)
        await db.execute("RESET ROLE; DROP OWNED BY plain; DROP ROLE plain")


async def test_a_database_in_use_keeps_its_versions_when_it_is_upgraded(empty_url):
    assert alembic(empty_url, "upgrade", "0004").returncode == 0
    product = "INSERT INTO products (name, price_minor, currency, allotment, payment_mode, payment_window_s) VALUES"
    await execute(empty_url, f"{product} ('Phone', 1, 'USD', 0, 'automatic', 300)")
    assert alembic(empty_url, "upgrade", "head").returncode == 0
    connection = await asyncpg.connect(empty_url)
    assert await adopt_timeline(connection) == 0
    await connection.close()
