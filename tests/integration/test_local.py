import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from flashsale.local.children import Child, ChildFailed, pss_bytes, start_ready
from flashsale.local.postgres_server import SETTINGS, LocalPostgres
from flashsale.local.stack import Stack
from flashsale.local.valkey_server import LocalValkey
from tests.conftest import ROOT


def descendants(pid):
    found = []
    for line in subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        child, parent = map(int, line.split())
        if parent == pid:
            found += [child, *descendants(child)]
    return found


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(check, *, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_up_runs_until_it_is_told_to_stop_and_leaves_no_process_whatever_ends_it(tmp_path, number):
    log = tmp_path / "up.log"
    with log.open("w") as output:
        launcher = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flashsale.cli",
                "up",
                "--port",
                "0",
                "--api",
                "1",
                "--data-dir",
                str(tmp_path / "d"),
            ],
            stdout=output,
            cwd=ROOT,
        )
    try:
        wait_for(lambda: "flashsale is up" in log.read_text(), timeout_s=60)
        children = descendants(launcher.pid)
        assert len(children) >= 12, "servers with their own children, API, simulator, three workers"
        launcher.send_signal(number)
        code = launcher.wait(60)
        assert code == (0 if number == signal.SIGINT else -signal.SIGKILL), log.read_text()
        wait_for(lambda: not any(runs(pid) for pid in children), timeout_s=10)
    finally:
        launcher.kill()
        launcher.wait()


async def test_postgres_keeps_its_data_over_a_crash_and_its_port(tmp_path):
    server = LocalPostgres(tmp_path / "pg")
    url = await server.start()
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    assert await connection.fetchval("SHOW fsync") == "on"
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    await server.kill()
    assert await server.start() == url
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT n FROM kept") == 7
    await connection.close()
    await server.stop()
    assert not {"fsync", "synchronous_commit"} & set(SETTINGS)
    assert (tmp_path / "pg/access").stat().st_mode & 0o077 == 0


async def test_valkey_keeps_its_data_over_a_restart_and_asks_for_a_password(tmp_path):
    from redis.asyncio import Redis
    from redis.exceptions import AuthenticationError

    server = LocalValkey(tmp_path)
    url = await server.start()
    async with Redis.from_url(url) as client:
        await client.set("kept", "7")
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
    await server.stop()
    assert await server.start() == url
    async with Redis.from_url(url) as client:
        assert await client.get("kept") == b"7"
    async with Redis.from_url(f"redis://{url.rpartition('@')[2]}") as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.get("kept")
    await server.kill()
    server.wipe()
    await server.start()
    async with Redis.from_url(url) as client:
        assert await client.get("kept") is None
    await server.stop()


async def test_a_child_that_does_not_come_up_is_said_with_the_end_of_its_log(tmp_path):
    program = "import sys; print('what went wrong'); sys.exit(3)"
    with pytest.raises(ChildFailed, match="ended with 3 before it was ready") as caught:
        await start_ready("x", [sys.executable, "-c", program], log_path=tmp_path / "log", environment=dict(os.environ))
    assert "what went wrong" in str(caught.value)
    program = "import time; time.sleep(60)"
    with pytest.raises(ChildFailed, match="was not ready"):
        await start_ready(
            "x", [sys.executable, "-c", program], log_path=tmp_path / "log", environment=dict(os.environ), timeout_s=0.3
        )


async def test_a_child_that_does_not_listen_to_sigterm_is_killed(tmp_path):
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    child = Child("x", [sys.executable, "-c", program], log_path=tmp_path / "log")
    while not child.log_tail():
        await asyncio.sleep(0.01)
    assert pss_bytes(child.pid) > 0
    assert await child.stop(timeout_s=0.2) == -signal.SIGKILL


def test_two_stacks_do_not_share_a_folder(tmp_path):
    first, second = Stack(tmp_path), Stack(tmp_path)
    first._take_lock()
    with pytest.raises(ChildFailed, match="Another stack runs"):
        second._take_lock()
    asyncio.run(first.stop())
    second._take_lock()
    asyncio.run(second.stop())


def test_secrets_are_made_once_for_their_owner_only(tmp_path):
    made = Stack(tmp_path)._read_secrets()
    assert made == Stack(tmp_path)._read_secrets()
    assert (tmp_path / "secrets.json").stat().st_mode & 0o077 == 0
    assert len(made["jwt_secret"]) >= 32


@pytest.mark.parametrize("command", ["", "up", "demo", "audit", "serve", "simulator", "admin", "buyers"])
def test_every_command_explains_itself_with_an_example(command):
    done = subprocess.run(
        [sys.executable, "-m", "flashsale.cli", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "Usage:" in done.stdout
    assert not command or "Example:" in done.stdout


def test_missing_settings_are_one_line_each():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASHSALE_")}
    environment["FLASHSALE_AUTH__JWT_SECRET"] = "short"
    done = subprocess.run(
        [sys.executable, "-m", "flashsale.cli", "serve"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "FLASHSALE_POSTGRES: Field required" in done.stderr
    assert "FLASHSALE_AUTH__JWT_SECRET: Value should have at least 32" in done.stderr
    assert "short" not in done.stderr.replace("shorter", "")
