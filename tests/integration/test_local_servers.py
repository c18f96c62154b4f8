"""Our own Postgres and Valkey: what was committed survives, and a killed server starts again on the same port."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from flashsale.local.access import PORTS
from flashsale.local.children import ChildFailed, descendants, wait_gone
from flashsale.local.postgres_server import NOBODY, LocalPostgres
from flashsale.local.valkey_server import LocalValkey

LAUNCHER = """
import asyncio, signal, sys
from pathlib import Path
from flashsale.local.children import descendants
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.valkey_server import LocalValkey
async def main():
    pids = []
    for server in (LocalPostgres(Path(sys.argv[1]) / "pg"), LocalValkey(Path(sys.argv[1]) / "valkey")):
        await server.start()
        pids += [server.child.pid, *descendants(server.child.pid)]
    print(*pids, flush=True)
asyncio.run(main())
signal.pause()
"""


def launch(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def fetchval(url, *arguments):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(*arguments)
    finally:
        await connection.close()


@pytest.fixture
async def server(tmp_path):
    started = LocalPostgres(tmp_path / "pg")
    await started.start()
    yield started
    await started.stop()


async def test_postgres_keeps_data_and_port_over_stop_and_kill(server):
    url = server.url
    await fetchval(url, "CREATE TABLE kept (n int)")
    await fetchval(url, "INSERT INTO kept VALUES (1)")
    assert await server.restart() == url
    await fetchval(url, "INSERT INTO kept VALUES (2)")
    await server.kill()
    assert await server.start() == url
    assert await fetchval(url, "SELECT sum(n) FROM kept") == 3


async def test_postgres_never_gives_up_durability(server):
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await fetchval(server.url, "SELECT current_setting($1)", name) == "on"


async def test_postgres_is_on_loopback_with_a_private_password(server, tmp_path):
    assert await fetchval(server.url, "SELECT current_setting('listen_addresses')") == "127.0.0.1"
    assert (tmp_path / "pg" / "access").stat().st_mode & 0o777 == 0o600
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.url.replace("flashsale:", "flashsale:x"))


async def test_the_port_is_none_that_an_outgoing_connection_could_take(server):
    assert int(server.url.rpartition(":")[2].partition("/")[0]) in PORTS


async def test_a_killed_postgres_leaves_no_session_at_work(server):
    # A session that computes does not look up for a long time.
    busy = await asyncpg.connect(server.url)
    working = asyncio.create_task(busy.fetchval("SELECT count(*) FROM generate_series(1, 100000000000)"))
    pid = busy.get_server_pid()
    while await fetchval(server.url, "SELECT state FROM pg_stat_activity WHERE pid = $1", pid) != "active":
        await asyncio.sleep(0.01)
    sessions = descendants(server.child.pid)
    assert pid in sessions
    await server.kill()
    assert await wait_gone(sessions, timeout_s=60)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await working
    await server.start()


async def test_sessions_that_outlive_their_postmaster_are_ended_before_the_next_start(server):
    # What the death of the launcher leaves for a moment: the kernel kills the postmaster alone.
    busy = await asyncpg.connect(server.url)
    working = asyncio.create_task(busy.fetchval("SELECT count(*) FROM generate_series(1, 100000000000)"))
    pid = busy.get_server_pid()
    while await fetchval(server.url, "SELECT state FROM pg_stat_activity WHERE pid = $1", pid) != "active":
        await asyncio.sleep(0.01)
    await server.child.kill()
    await server.start()
    assert await wait_gone([pid], timeout_s=60)
    assert await fetchval(server.url, "SELECT 1") == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await working


async def test_a_pid_file_whose_number_is_somebody_elses_now_does_not_stop_the_start(server, tmp_path):
    pid_file = tmp_path / "pg" / "cluster" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    await server.kill()
    pid_file.write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n")
    await server.start()


async def test_two_servers_never_run_on_the_same_data(server, tmp_path):
    with pytest.raises(ChildFailed, match="already runs on"):
        await LocalPostgres(tmp_path / "pg").start()
    assert await fetchval(server.url, "SELECT 1") == 1


async def test_an_initdb_that_was_cut_off_is_done_again(tmp_path):
    left = tmp_path / "pg" / "cluster.new"
    left.mkdir(parents=True)
    (left / "PG_VERSION").write_text("18\n")
    server = LocalPostgres(tmp_path / "pg")
    await server.start()
    await server.stop()


async def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tmp_path):
    server = LocalPostgres(tmp_path / "pg", settings={"shared_buffers": "nonsense"})
    with pytest.raises(ChildFailed, match="nonsense"):
        await server.start()
    assert server.child.returncode is not None


async def test_valkey_keeps_its_port_and_starts_on_a_snapshot_that_was_made(tmp_path):
    server = LocalValkey(tmp_path / "with space")
    url = await server.start()
    try:
        async with Redis.from_url(url) as client:
            assert await client.config_get("appendonly", "save") == {"appendonly": "no", "save": ""}
            assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
            await client.set("kept", 1)
            await client.save()
        await server.kill()
        assert await server.start() == url
        async with Redis.from_url(url) as client:
            assert await client.get("kept") == b"1"
            await client.set("kept", 2)
        assert await server.restart() == url
        async with Redis.from_url(url) as client:
            assert await client.get("kept") == b"1"
        with pytest.raises(ChildFailed, match="already runs on"):
            await LocalValkey(tmp_path / "with space").start()
    finally:
        await server.stop()


async def save_slowly(server):
    """Let a Valkey write a snapshot, for many seconds; returns the child that does it."""
    async with Redis.from_url(server.url) as client:
        await client.mset({f"k{number}": "x" * 100 for number in range(20_000)})
        await client.config_set("rdb-key-save-delay", 1000)
        await client.bgsave()
    async with asyncio.timeout(60):
        while not (saving := descendants(server.child.pid)):
            await asyncio.sleep(0.01)
    return saving


async def test_a_killed_valkey_leaves_no_child_that_writes_a_snapshot(tmp_path):
    server = LocalValkey(tmp_path)
    await server.start()
    saving = await save_slowly(server)
    await server.kill()
    assert await wait_gone(saving, timeout_s=60)


async def test_a_child_that_outlives_its_valkey_is_no_running_server(tmp_path, monkeypatch):
    # What the death of the launcher leaves for a moment: the kernel kills the server alone.
    monkeypatch.setattr("flashsale.local.server.LAST_BREATH_S", 0.0)
    server = LocalValkey(tmp_path)
    url = await server.start()
    saving = await save_slowly(server)
    # Nor may it notice by itself.
    os.kill(saving[0], signal.SIGSTOP)
    await server.child.kill()
    assert await server.start() == url
    try:
        assert await wait_gone(saving, timeout_s=60)
    finally:
        await server.stop()


@pytest.mark.parametrize("server", [LocalPostgres, LocalValkey])
async def test_a_damaged_password_file_is_said(tmp_path, server):
    (tmp_path / "access").touch()
    with pytest.raises(ChildFailed, match="access is damaged"):
        await server(tmp_path).start()


async def test_no_server_outlives_a_killed_launcher(tmp_path):
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path)]
    with launch(command) as launcher:
        pids = [int(pid) for pid in launcher.stdout.readline().split()]
        launcher.kill()
    assert len(pids) > 2
    assert await wait_gone(pids, timeout_s=60)
    # And the data is good.
    server = LocalPostgres(tmp_path / "pg")
    await server.start()
    await server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_where_namespaces_are_closed_postgres_runs_as_nobody_and_ends_with_its_launcher(monkeypatch):
    # Not below pytest's own folder, which nobody but us may enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101, S103
        monkeypatch.setattr("flashsale.local.postgres_server.shutil.which", lambda _name: None)
        server = LocalPostgres(Path(folder) / "pg")
        url = await server.start()
        assert os.stat(f"/proc/{server.child.pid}").st_uid == NOBODY  # noqa: PTH116
        await fetchval(url, "CREATE TABLE kept ()")
        await server.stop()
        # The same data, in a namespace and back.
        monkeypatch.undo()
        await server.start()
        assert await fetchval(url, "SELECT count(*) FROM kept") == 0
        await server.stop()
        launcher = "import flashsale.local.postgres_server as p\np.shutil.which = lambda _name: None\n" + LAUNCHER
        with launch([sys.executable, "-c", launcher, folder]) as process:
            pids = [int(pid) for pid in process.stdout.readline().split()]
            process.kill()
        assert len(pids) > 2
        assert await wait_gone(pids, timeout_s=60)
