"""A permanent refusal of Postgres is one line and an exit, in every process; a temporary one is waited for."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.failures import AWAY, Misconfigured
from flashsale.adapters.postgres.feed import PostgresFeed
from flashsale.adapters.postgres.queries import Query
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.servers import require_servers
from flashsale.domain.errors import FlashSaleError, OtherSchema, Unavailable
from flashsale.local.access import free_port
from flashsale.local.postgres_server import LocalPostgres
from flashsale.settings import read_settings
from flashsale.settings.groups import PostgresSettings
from flashsale.usecases.live_changes import Connected
from tests.conftest import ROOT, add_buyers, add_product, alembic, execute, make_settings, with_database
from tests.support.certificates import certificate
from tests.support.gates import ask

SSL_REQUEST = 80_877_103
"""What a client sends before its startup message to ask for TLS."""

COMMANDS = {
    "serve": ["flashsale.cli", "serve", "--port", "0"],
    "admin": ["flashsale.cli", "admin", "create", "a@example.com"],
    "audit": ["flashsale.cli", "audit"],
    "worker": ["workers", "orders"],
    "alembic": ["alembic", "upgrade", "head"],
}


@pytest.fixture(scope="module")
def tls(postgres, tmp_path_factory):
    """Certificates, and a role that the server takes over nothing but TLS."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("right", "wrong"):
        certificate(folder, name)
    hba = postgres._cluster / "pg_hba.conf"
    hba.write_text("hostnossl all only_tls all reject\n" + hba.read_text())
    asyncio.run(execute(postgres.url, "CREATE ROLE only_tls LOGIN PASSWORD 'tls'", "SELECT pg_reload_conf()"))
    return folder


@asynccontextmanager
async def speaking_tls(url, folder):
    """A way to a server over TLS: the embedded build has none of its own."""
    server = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "right.crt", folder / "right.key")

    async def pipe(reader, writer):
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader, writer):
        with suppress(OSError):
            assert int.from_bytes((await reader.readexactly(8))[4:]) == SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(context)
            there, back = await asyncio.open_connection(server.hostname, server.port)
            await asyncio.gather(pipe(reader, back), pipe(there, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        yield url.replace(f":{server.port}/", f":{port}/")


def with_user(url, user, password):
    return f"postgresql://{user}:{password}@{urlsplit(url).netloc.rpartition('@')[2]}/postgres"


REFUSED = {
    "wrong password": (
        lambda plain, way, folder: with_user(plain, "flashsale", "wr0ngword"),
        "password authentication",
    ),
    "unknown role": (
        lambda plain, way, folder: with_user(plain, "nobody", "wr0ngword"),
        "password authentication failed",
    ),
    "unknown database": (
        lambda plain, way, folder: with_database(plain, "nowhere"),
        'database "nowhere" does not exist',
    ),
    "no TLS there": (lambda plain, way, folder: plain + "?sslmode=require", "does not speak TLS"),
    "only TLS there": (lambda plain, way, folder: with_user(plain, "only_tls", "tls"), "no encryption"),
    "another certificate": (
        lambda plain, way, folder: f"{way}?sslmode=verify-full&sslrootcert={folder}/wrong.crt",
        "certificate is not trusted",
    ),
    "certificate of another name": (
        lambda plain, way, folder: (
            f"{way.replace('127.0.0.1', 'localhost')}?sslmode=verify-full&sslrootcert={folder}/right.crt"
        ),
        "certificate is not trusted",
    ),
}
TAKEN = ["?sslmode=require", "?sslmode=verify-ca&sslrootcert={}", "?sslmode=verify-full&sslrootcert={}"]


@pytest.mark.parametrize("kind", REFUSED)
async def test_what_no_waiting_can_help_is_told_with_its_reason(postgres, tls, kind):
    make, reason = REFUSED[kind]
    async with speaking_tls(postgres.url, tls) as way:
        with pytest.raises(Misconfigured, match=reason) as caught:
            await Database(PostgresSettings(url=make(postgres.url, way, tls)), name="refused").check()
    assert "wr0ngword" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("parameters", TAKEN)
async def test_tls_connects_where_both_sides_want_it(postgres_url, tls, parameters):
    async with speaking_tls(postgres_url, tls) as way:
        url = way + parameters.format(tls / "right.crt")
        database = Database(PostgresSettings(url=url), name="taken")
        await database.check()
        await database.open()
        assert await database.takes_writes()
        await database.close()


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-name.invalid"])
async def test_what_may_come_is_waited_for(host):
    await Database(PostgresSettings(url=f"postgresql://u:p@{host}/shop"), name="away").check()


async def test_a_full_server_and_one_that_starts_are_waited_for(postgres):
    url = with_database(postgres.url, "template1")
    await execute(
        postgres.url,
        "ALTER ROLE flashsale CONNECTION LIMIT -1",
        "CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 0",
    )
    await Database(PostgresSettings(url=with_user(url, "few", "few")), name="full").check()


def run(command, url, **more):
    environment = {
        **os.environ,
        "FLASHSALE_POSTGRES__URL": url,
        "FLASHSALE_REDIS__URL": "redis://127.0.0.1:1/0",
        "FLASHSALE_AUTH__JWT_SECRET": "only-for-tests: 0123456789 abcdefgh",
        **more,
    }
    return subprocess.Popen(
        [sys.executable, "-m", *COMMANDS[command]],
        env=environment, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process):
    """Return exit code and what it said, without log lines."""
    out, err = process.communicate("a long password\n", timeout=60)
    lines = [line for line in (out + err).splitlines() if not line.startswith("{") and "[warning" not in line]
    return process.returncode, lines


async def test_every_process_ends_with_one_line_that_names_the_variable(postgres):
    plain = with_database(postgres.url, "template1")
    await execute(postgres.url, "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    refused, ascii_url = with_user(plain, "flashsale", "wr0ngword"), with_database(plain, "ascii")
    tried = [
        *((name, refused, "password authentication failed") for name in ("serve", "audit", "worker", "alembic")),
        ("alembic", ascii_url, "ENCODING 'UTF8'"),
        ("alembic", f"'{plain}'", "is quoted"),
        ("worker", plain.replace("postgresql", "postgresql+asyncpg"), "has the scheme postgresql+asyncpg"),
    ]
    for name, url, reason in tried:
        code, lines = await asyncio.to_thread(ended, run(name, url))
        said = [line for line in lines if not line.startswith("See docs/reference/settings.md")]
        assert code not in {0, None}, name
        assert len(said) == 1, (name, lines)
        assert reason in said[0], name
        assert "FLASHSALE_POSTGRES__URL" in said[0], name
        assert "wr0ngword" not in said[0]
        assert urlsplit(postgres.url).password not in said[0]


async def test_a_database_that_was_not_migrated_is_one_line_that_says_what_to_do(empty_url):
    code, lines = await asyncio.to_thread(ended, run("admin", empty_url))
    assert code == 1
    assert len(lines) == 1, lines
    assert "alembic upgrade head" in lines[0]


def test_payment_workers_without_a_gateway_end_with_one_line(postgres):
    environment = {"FLASHSALE_PAYMENTS__GATEWAY_URL": ""}
    COMMANDS["payments"] = ["workers", "payments"]
    code, [line] = ended(run("payments", postgres.url, **environment))
    assert code == 1
    assert "FLASHSALE_PAYMENTS__GATEWAY_URL" in line


DROPPED = [
    "DROP TABLE product_live CASCADE",
    """
    DO $$ DECLARE one regprocedure; BEGIN
    FOR one IN SELECT oid FROM pg_proc WHERE proname LIKE 'accept_orders%' LOOP
    EXECUTE 'DROP FUNCTION ' || one; END LOOP; END $$
    """,
    "ALTER TABLE orders DROP COLUMN version CASCADE",
]


@pytest.mark.parametrize("drop", DROPPED, ids=["table", "function", "column"])
async def test_a_schema_that_is_another_is_told_as_such(postgres_url, valkey, drop):
    async with open_services(make_settings(postgres_url, valkey.url)) as services:
        product = await add_product(services)
        user = (await add_buyers(services, 1))[0]
        await execute(postgres_url, drop)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            DROPPED[0]: services.products.stocks,
            DROPPED[1]: lambda: services.buy(ask(product, user)),
            DROPPED[2]: lambda: services.order_rows.get_many([user]),
        }
        with pytest.raises(OtherSchema, match="alembic upgrade head"):
            await calls[drop]()


# --- a server that is there but slow, or reads only -----------------------------------------------------------------


SLEEP = Query(name="sleep", description="", text="SELECT pg_sleep($1::float8)", reads=True)
LOCK = Query(name="lock", description="", text="SELECT pg_advisory_xact_lock(1)", reads=True)


async def test_time_outs_are_told_apart_from_an_outage(postgres_url, db):
    slow = PostgresSettings(url=postgres_url, statement_timeout_s=0.05, lock_timeout_s=0.02)
    busy = PostgresSettings(url=postgres_url, pool_min=1, pool_max=2, acquire_timeout_s=0.1)
    await db.execute("SELECT pg_advisory_lock(1)")
    said = []
    for settings, query, arguments in ((slow, SLEEP, (5.0,)), (slow, LOCK, ())):
        database = Database(settings, name="slow")
        await database.open()
        with capture_logs() as lines, pytest.raises(Unavailable, match="took too long"):
            await database.fetch(query, *arguments)
        said += [line["event"] for line in lines]
        await database.close()
    database = Database(busy, name="busy")
    await database.open()
    async with database.connection(), database.connection():
        with capture_logs() as lines, pytest.raises(Unavailable, match="Busy"):
            await database.fetch(SLEEP, 0.0)
        said += [line["event"] for line in lines]
    await database.close()
    assert said == ["postgres.slow", "postgres.slow", "postgres.busy"]


async def test_a_transaction_that_pauses_too_long_loses_its_locks_and_is_no_outage(postgres_url, db):
    database = Database(PostgresSettings(url=postgres_url, idle_transaction_timeout_s=0.1), name="idle")
    await database.open()
    with pytest.raises(AWAY):
        async with database.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(1)")
            await db.execute("SET lock_timeout = '5s'")
            await db.execute("SELECT pg_advisory_lock(1)")
            await connection.execute("SELECT 1")
    assert await database.takes_writes()
    await database.close()


async def test_connections_to_a_server_that_became_read_only_are_dropped_and_another_one_is_found(
    tmp_path, postgres_url, valkey
):
    """Two servers in one URL: the first turns read-only under open connections, the second takes over."""
    second = LocalPostgres(tmp_path / "second", port=free_port())
    await second.start()
    first_name = urlsplit(postgres_url).path[1:]
    await execute(second.url, f"CREATE DATABASE {first_name}")
    try:
        assert alembic(with_database(second.url, first_name), "upgrade", "head").returncode == 0
        old, new = urlsplit(postgres_url), urlsplit(second.url)
        await execute(second.url, f"ALTER ROLE flashsale PASSWORD '{old.password}'")
        url = f"postgresql://flashsale:{old.password}@127.0.0.1:{old.port},127.0.0.1:{new.port}/{first_name}"
        async with open_services(make_settings(url, valkey.url)) as services:
            database = cast("Database", services.database)
            feed = PostgresFeed(database).changes()
            assert isinstance(await anext(feed), Connected)
            product = await add_product(services)
            user = (await add_buyers(services, 1))[0]
            assert await database.takes_writes()
            await execute(postgres_url, f"ALTER DATABASE {first_name} SET default_transaction_read_only = on")
            held = await asyncpg.connect(postgres_url)
            await held.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid()"
            )
            await held.close()
            with pytest.raises(FlashSaleError):
                await services.buy(ask(product, user))
            async with asyncio.timeout(60):
                while (await services.products.all()) != []:
                    pass
            assert await database.takes_writes(), "it is connected to the second server"
            async with asyncio.timeout(60):
                while not isinstance(await anext(feed), Connected):
                    pass
            await cast("AsyncGenerator[object]", feed).aclose()
    finally:
        await second.stop()


async def test_a_pool_that_meets_a_read_only_server_keeps_no_connection_to_it(postgres_url):
    database = Database(PostgresSettings(url=postgres_url, pool_min=2, pool_max=2), name="demoted")
    await database.open()
    async with database.connection() as one, database.connection() as other:
        for connection in (one, other):
            # As a reload of the server's configuration does to sessions that are open.
            await connection.execute("SET default_transaction_read_only = on")
    assert not await database.takes_writes()
    assert await database.takes_writes(), "a new connection, to a server that takes writes"
    async with asyncio.timeout(60):
        while database.size[0] > 2:
            # One of the old ones is being closed.
            await asyncio.sleep(0.01)
    write = Query(name="write", description="", text="CREATE TABLE written_here ()", reads=False)
    async with database.connection() as one, database.connection() as other:
        for connection in (one, other):
            await connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="takes no writes"):
        await database.fetch(write)
    await database.fetch(write)
    await database.close()


# --- wrong settings -------------------------------------------------------------------------------------------------


WRONG = {
    "a password that is not encoded": ("POSTGRES__URL", lambda url: url.replace("://flashsale:", "://flashsale:a/b#c@"), "%40"),
    "another password": ("POSTGRES__URL", lambda url: with_user(url, "flashsale", "wr0ngword"), "password authentication failed"),
    "a database that is not there": ("POSTGRES__URL", lambda url: with_database(url, "nowhere"), '"nowhere" does not exist'),
    "no TLS there": ("POSTGRES__URL", lambda url: f"{url}?sslmode=require", "does not speak TLS"),
    "a direct URL to another server": ("POSTGRES__DIRECT_URL", lambda url: with_user(url, "flashsale", "wr0ngword"), "lack settings"),
    "several Redis servers in the form of one": ("REDIS__URL", lambda _: "redis://:s3cret@a:6379,b:6379/0", "redis+sentinel://"),
    "TLS parameters without TLS": ("REDIS__URL", lambda _: "redis://:s3cret@a:6379/0?ssl_cert_reqs=none", "rediss"),
    "no number": ("POSTGRES__POOL_MAX", lambda _: "many", "valid integer"),
    "a number out of bounds": ("POSTGRES__POOL_MAX", lambda _: "0", "greater than or equal to"),
    "a short key": ("AUTH__JWT_SECRET", lambda _: "short", "at least 32"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
async def test_a_wrong_setting_is_one_line_that_names_the_variable_and_the_cause(mistake, postgres, monkeypatch):
    name, make, cause = WRONG[mistake]
    url = with_database(postgres.url, "template1")
    key = "only-for-tests: 0123456789 abcdefgh"
    given = {"POSTGRES__URL": url, "REDIS__URL": "redis://127.0.0.1:1/0", "AUTH__JWT_SECRET": key}
    for variable, value in {**given, name: make(url)}.items():
        monkeypatch.setenv(f"FLASHSALE_{variable}", value)

    def start():
        require_servers(read_settings("api"))

    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(start)
    line, *rest = str(ended.value).splitlines()
    # Sessions are looked at first, so a wrong direct URL shows as settings that the role of the URL lacks.
    assert line.startswith(f"FLASHSALE_{'POSTGRES__URL' if 'lack' in cause else name}: ")
    assert cause in line
    assert [one for one in rest if not one.startswith("See docs/reference/settings.md")] == []
    for secret in ("s3cret", "wr0ngword", urlsplit(postgres.url).password):
        assert secret not in line
