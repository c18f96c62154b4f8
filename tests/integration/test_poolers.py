"""Postgres behind a pooler in transaction mode: PgBouncer, and a stand-in that needs no program."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from flashsale.adapters.postgres import hearing, sessions
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.failures import Misconfigured
from flashsale.adapters.postgres.feed import PostgresFeed
from flashsale.adapters.postgres.queries import Query, sql_root
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.commands import open_audit
from flashsale.bootstrap.jobs import open_jobs
from flashsale.domain.errors import SoldOut, Unavailable
from flashsale.domain.requests import Accepted
from flashsale.settings.groups import PaymentSettings, PostgresSettings
from tests.conftest import ROOT, add_buyers, add_product, alembic, assert_invariants, make_settings
from tests.support.gates import ask
from tests.support.poolers import pgbouncer, stand_in

BOTH = pytest.mark.parametrize("pooler", [stand_in, pgbouncer], ids=lambda one: one.__name__)
CLIENTS = 24


@pytest.fixture
async def pooled_url(postgres, postgres_url, db):
    """A database for a role that the server trusts, because the stand-in cannot log in, and whose sessions have limits."""
    hba = postgres._cluster / "pg_hba.conf"
    if "host all pooled" not in hba.read_text():
        hba.write_text("host all pooled 127.0.0.1/32 trust\n" + hba.read_text())
        await db.execute("CREATE ROLE pooled LOGIN SUPERUSER PASSWORD 'pooled'")
        await db.execute("SELECT pg_reload_conf()")
    there = urlsplit(postgres_url)
    return f"postgresql://pooled:pooled@127.0.0.1:{there.port}{there.path}"


async def with_limits(db, url):
    """Do what the line at the start says."""
    settings = PostgresSettings(url=url)
    wanted = sessions.session_settings(settings, sessions.BY_INDEX)
    await db.execute(sessions.alter_role("pooled", urlsplit(url).path[1:], wanted))


@asynccontextmanager
async def behind(pooler, url, db, *, valkey, **more):
    await with_limits(db, url)
    async with pooler(url) as through:
        yield make_settings(
            through, valkey.url, postgres={"url": through, "direct_url": url, "pool_max": CLIENTS, **more}
        )


@BOTH
async def test_concurrent_clients_sell_through_a_pooler_and_the_audit_holds(pooler, pooled_url, db, valkey, redis):
    async with behind(pooler, pooled_url, db, valkey=valkey) as settings:
        await Database(settings.postgres, name="check").check()
        async with open_services(settings, name="pooled") as services, open_jobs(settings, name="pooled") as jobs:
            products = [await add_product(services, allotment=8) for _ in range(2)]
            users = await add_buyers(services, CLIENTS)
            # One connection each: what a single client does through a pooler shows nothing.
            asked = [services.buy(ask(product, user)) for product in products for user in users]
            reading = [services.products.stocks() for _ in range(2 * CLIENTS)]
            answers = await asyncio.gather(*asked, *reading, return_exceptions=True)
            sold = [one for one in answers if isinstance(one, Accepted)]
            assert len(sold) == 16
            assert {type(one) for one in answers if isinstance(one, BaseException)} == {SoldOut}
            await asyncio.gather(*(jobs.process_orders([one.order_id]) for one in sold))
            async with open_audit(settings.model_copy(update={"payments": PaymentSettings()})) as audit:
                found = await audit(history=None, overdue_s=3600, stuck_s=3600)
            assert not [one for one in found if one.violations]
            await assert_invariants(services.database)


async def test_an_audit_through_a_pooler_has_its_own_time_limit_and_plans(pooled_url, db, valkey, redis):
    async with behind(stand_in, pooled_url, db, valkey=valkey) as settings:
        show = Query(
            name="show",
            description="",
            text="SELECT current_setting('statement_timeout'), current_setting('enable_seqscan')",
            reads=True,
        )
        async with open_audit(settings.model_copy(update={"payments": PaymentSettings()})) as audit:
            truth: Any = audit._truth
            (found,) = await truth._database.fetch(show)
        assert (*found,) == ("10min", "on")


async def test_a_new_time_line_is_adopted_on_connections_that_a_pooler_keeps(pooled_url, db):
    await with_limits(db, pooled_url)
    async with stand_in(pooled_url) as through:
        database = Database(PostgresSettings(url=through, direct_url=pooled_url, pool_min=1, pool_max=2), name="kept")
        await database.open()
        before = await db.fetchval("SELECT base FROM timeline")
        await db.execute("UPDATE timeline SET life = 'another server'")
        assert await database.takes_writes()
        assert await db.fetchval("SELECT base FROM timeline") > before
        await database.close()


async def test_without_the_direct_url_concurrent_clients_go_wrong(pooled_url, monkeypatch):
    """The control: the same statements as through a direct connection, on a pooler that ignores the settings."""
    async with stand_in(pooled_url, ignoring=True) as through:
        database = Database(PostgresSettings(url=through, pool_max=CLIENTS), name="control")
        await database.open()
        queries = [Query(name=f"n{i}", description="", text=f"SELECT {i} + $1::integer", reads=True) for i in range(3)]
        with capture_logs() as lines:
            asked = [database.fetch(query, 1) for _ in range(CLIENTS) for query in queries]
            wrong = [
                one for one in await asyncio.gather(*asked, return_exceptions=True) if isinstance(one, BaseException)
            ]
        assert wrong
        assert {type(one) for one in wrong} == {Unavailable}
        assert [line["event"] for line in lines].count("postgres.refused") >= 1
        assert "FLASHSALE_POSTGRES__DIRECT_URL" in str(lines)
        await database.close()


@BOTH
@pytest.mark.parametrize("ignoring", [False, True])
async def test_a_pooler_that_is_not_named_is_one_line_at_the_start(pooler, ignoring, pooled_url):
    async with pooler(pooled_url, ignoring=ignoring) as through:
        with pytest.raises(Misconfigured, match="FLASHSALE_POSTGRES__DIRECT_URL") as caught:
            await Database(PostgresSettings(url=through), name="start").check()
        assert caught.value.setting == "FLASHSALE_POSTGRES__URL"
        assert "\n" not in str(caught.value)
        # Named on both sides: the direct one is a pooler too.
        with pytest.raises(Misconfigured) as caught:
            await Database(PostgresSettings(url=pooled_url, direct_url=through), name="start").check()


@BOTH
async def test_the_line_about_missing_limits_is_the_command_that_sets_them(pooler, pooled_url, db):
    settings = {"direct_url": pooled_url}
    async with pooler(pooled_url) as through:
        with pytest.raises(Misconfigured, match="lack settings") as caught:
            await Database(PostgresSettings(url=through, **settings), name="start").check()
    commands = re.findall(r"ALTER ROLE [^;]+;", str(caught.value))
    assert len(commands) == 6
    for command in commands:
        await db.execute(command)
    async with pooler(pooled_url) as through:
        database = Database(PostgresSettings(url=through, **settings), name="start")
        await database.check()
        await database.open()
        show = Query(
            name="show", description="", text="SELECT current_setting('lock_timeout') AS is, pg_sleep($1)", reads=True
        )
        assert (await database.fetch(show, 0.0))[0]["is"] == "3s"
        await database.close()


def test_a_statement_of_a_pooled_session_may_not_outlive_its_caller():
    wanted = sessions.session_settings(PostgresSettings(url="postgresql://u@h/d"), sessions.BY_INDEX)
    who = {"current_user": "shop", "current_database": "shop"}
    for limit_ms, good in ((9_999, True), (10_000, True), (10_001, False), (0, False)):
        problem = sessions.problem_of({**wanted, **who, "statement_timeout": str(limit_ms)}, wanted, pooled=True)
        assert (problem is None) == good
        assert good or "SET statement_timeout = '10000'" in str(problem)


async def test_a_migration_with_a_direct_url_gives_the_roles_their_limits(postgres_url, monkeypatch):
    monkeypatch.setenv("FLASHSALE_POSTGRES__DIRECT_URL", postgres_url)
    monkeypatch.setenv("FLASHSALE_POSTGRES__LOCK_TIMEOUT_S", "1.5")
    done = await asyncio.to_thread(alembic, postgres_url, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    connection = await asyncpg.connect(postgres_url)
    rows = await connection.fetch(
        "SELECT r.rolname, s.setconfig FROM pg_db_role_setting AS s INNER JOIN pg_roles AS r ON r.oid = s.setrole "
        "INNER JOIN pg_database AS d ON d.oid = s.setdatabase WHERE d.datname = current_database()"
    )
    await connection.close()
    assert {row["rolname"] for row in rows} == {"flashsale_api", "flashsale_worker"}
    for row in rows:
        assert {"lock_timeout=1500", "statement_timeout=10000", "enable_seqscan=off"} <= {*row["setconfig"]}


@BOTH
async def test_a_feed_is_connected_only_if_it_hears_itself(pooler, pooled_url, db, monkeypatch):
    await with_limits(db, pooled_url)
    async with pooler(pooled_url, ignoring=True) as through:
        # LISTEN succeeds in both, and only one hears.
        deaf = PostgresFeed(Database(PostgresSettings(url=through, direct_url=through), name="deaf"))
        good = PostgresFeed(Database(PostgresSettings(url=through, direct_url=pooled_url), name="good"))
        with capture_logs() as lines:
            for feed in (deaf, good):
                await feed._database.open()
            running = [asyncio.create_task(drain(good))]
            await wait_until(lambda: good.connected)
            # Not earlier: on a busy machine the good one's notification may take longer.
            monkeypatch.setattr(hearing, "HEARD_S", 0.3)
            running.append(asyncio.create_task(drain(deaf)))
            await wait_until(lambda: any(line["event"] == "feed.lost" for line in lines))
            assert good.connected
            assert not deaf.connected
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        (line,) = [line for line in lines if line["event"] == "feed.lost"]
        assert "FLASHSALE_POSTGRES__DIRECT_URL" in line["problem"]
        for feed in (deaf, good):
            await feed._database.close()


async def wait_until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def drain(feed):
    async for _ in feed.changes():
        pass


OF_SESSION = re.compile(
    r"pg_(try_)?advisory_lock|set_config\([^)]*,\s*false\)|\bSET SESSION\b|execute\(f?[\"']SET (?!LOCAL)|CREATE TEMP"
    r"|WITH HOLD|DISCARD ALL|connection\.prepare\(|\bPREPARE \w+ AS\b",
    re.IGNORECASE,
)


def test_no_statement_leaves_a_lock_or_a_setting_in_its_session():
    """What belongs to a session would stay with the pooler's next client."""
    files = [*(sql_root() / "functions").glob("*.sql"), *(sql_root() / "queries").glob("*.sql")]
    files += [*(ROOT / "src").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]
    texts = {path.name: path.read_text() for path in files}
    assert {name: found[0] for name, text in texts.items() if (found := OF_SESSION.search(text))} == {}
    assert len(texts) > 100


async def test_an_outage_is_a_line_at_its_beginning_that_names_the_server():
    database = Database(PostgresSettings(url="postgresql://u:s3cret@no-such-host.invalid:6432/shop"), name="away")
    with capture_logs() as lines:
        await database.check()
        await database.open()
        for _ in range(20):
            with pytest.raises(Unavailable):
                await database.fetch(Query(name="one", description="", text="SELECT 1", reads=True))
    await database.close()
    (line,) = lines
    assert line["event"] == "postgres.away"
    assert line["servers"] == "no-such-host.invalid:6432"
    assert "s3cret" not in str(line)
