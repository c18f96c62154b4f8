"""The one-machine stack, with small stand-ins for the processes other than the servers."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys

import aiohttp
import asyncpg
import pytest
from rich.console import Console

from flashsale.local import up as up_module
from flashsale.local.access import read_secrets
from flashsale.local.children import Child, ChildFailed, descendants, wait_gone
from flashsale.local.stack import COMMANDS as REAL
from flashsale.local.stack import Stack
from flashsale.local.up import up
from flashsale.runtime import restarts

STAND_IN = """
import asyncio, os, signal, socket, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    body = str(os.getpid()).encode()
    writer.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
    await writer.drain()
    writer.close()
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if "--fd" in options:
        await asyncio.start_server(answer, sock=socket.socket(fileno=int(options["--fd"])))
    os.write(int(options["--ready-fd"]), b"ready\\n")
    await stop.wait()
asyncio.run(main())
"""
RUN = [sys.executable, "-c", STAND_IN]
NOTHING = [sys.executable, "-c", "import sys; sys.stdin.read()"]
COMMANDS = {
    "migrate": NOTHING,
    "admin": NOTHING,
    **dict.fromkeys(("simulator", "api", "orders", "payments", "maintenance"), RUN),
}
LAUNCHER = """
import asyncio, json, signal, sys
from pathlib import Path
from flashsale.local.children import descendants
from flashsale.local.stack import COMMANDS as REAL
from flashsale.local.stack import Stack
async def main():
    stack = Stack(Path(sys.argv[1]), port=0, commands=json.loads(sys.argv[2]))
    await stack.start()
    pids = [child.pid for children in stack.children.values() for child in children]
    for server in (stack.postgres, stack.valkey):
        pids += [server.child.pid, *descendants(server.child.pid)]
    print(*pids, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def launch(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def make_stack(data_dir, **changes):
    return Stack(data_dir, **{"port": 0, "commands": COMMANDS, **changes})


def all_pids(stack):
    pids = [child.pid for children in stack.children.values() for child in children]
    for server in (stack.postgres, stack.valkey):
        if server is not None and server.child is not None:
            pids += [server.child.pid, *descendants(server.child.pid)]
    return pids


async def get(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


async def test_everything_runs_inside_and_nothing_after(tmp_path):
    async with make_stack(tmp_path, api=2, payments=2) as stack:
        counts = {role: len(children) for role, children in stack.children.items()}
        assert counts == {"simulator": 1, "mailbox": 0, "api": 2, "orders": 1, "payments": 2, "maintenance": 1}
        assert [child.name for child in stack.children["api"]] == ["api 1", "api 2"]
        pids = all_pids(stack)
        assert int(await get(stack.base_url)) in [child.pid for child in stack.children["api"]]
        assert int(await get(stack.gateway_url)) == stack.children["simulator"][0].pid
        connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
        assert await connection.fetchval("SELECT current_database()") == "flashsale"
        await connection.close()
        sizes = stack.pss_bytes()
        assert all(sizes[role] > 2**20 for role in ("api", "orders", "simulator", "postgres", "valkey"))
    assert await wait_gone(pids, timeout_s=60)


async def test_a_killed_launcher_leaves_no_process(tmp_path):
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), json.dumps(COMMANDS)]
    with launch(command) as launcher:
        pids = [int(pid) for pid in launcher.stdout.readline().split()]
        launcher.kill()
        launcher.wait()
        # Another stack on the same data at once, while the old processes are about to go.
        async with make_stack(tmp_path):
            assert await wait_gone(pids, timeout_s=60)
    assert len(pids) > 8


async def test_secrets_are_made_once_and_private(tmp_path, postgres_url, valkey):
    servers = {"postgres_url": postgres_url, "redis_url": valkey.url}
    async with make_stack(tmp_path, api=1, **servers) as stack:
        first = stack.secrets
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    async with make_stack(tmp_path, api=1, **servers) as stack:
        assert stack.secrets == first
        assert stack.environment["FLASHSALE_AUTH__JWT_SECRET"] == first["jwt_secret"]
    other = make_stack(tmp_path / "other")
    other.data_dir.mkdir()
    assert not set(read_secrets(other.data_dir).values()) & set(first.values()) - {first["admin_email"], ""}


async def test_data_of_a_release_whose_processes_were_the_owner_is_upgraded(tmp_path):
    """No roles, no rights and no passwords for them in the file of secrets: the stack makes all of it, and works."""
    real = {"commands": {**COMMANDS, "migrate": REAL["migrate"]}}
    async with make_stack(tmp_path, api=1, **real) as stack:
        first = stack.secrets
        owner = stack.environment["FLASHSALE_POSTGRES__URL"]
        connection = await asyncpg.connect(owner)
        for role in ("flashsale_api", "flashsale_worker"):
            await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC")
        await connection.close()
    old = {name: value for name, value in first.items() if not name.startswith("flashsale_")}
    (tmp_path / "secrets.json").write_text(json.dumps(old))
    async with make_stack(tmp_path, api=1, **real) as stack:
        assert {name: stack.secrets[name] for name in old} == old
        for process, table in (("api", "orders"), ("maintenance", "payment_attempts")):
            connection = await asyncpg.connect(stack.environment_of(process)["FLASHSALE_POSTGRES__URL"])
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"DROP TABLE {table}")
            await connection.close()


async def test_damaged_secrets_are_said_and_never_replaced_by_defaults(tmp_path):
    (tmp_path / "secrets.json").write_text('{"jwt_secret": "x"}')
    with pytest.raises(ChildFailed, match=r"secrets\.json is damaged"):
        await make_stack(tmp_path).__aenter__()


async def test_a_data_dir_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ChildFailed, match=r"file: File exists.*--data-dir"):
        await make_stack(tmp_path / "file").__aenter__()


async def test_two_stacks_never_share_data(tmp_path, postgres_url, valkey):
    urls = {"postgres_url": postgres_url, "redis_url": valkey.url, "api": 1}
    async with make_stack(tmp_path, **urls):
        with pytest.raises(ChildFailed, match="Another stack runs"):
            await make_stack(tmp_path, **urls).__aenter__()
    async with make_stack(tmp_path, **urls):
        pass


async def test_named_servers_are_used_and_a_missing_database_is_made(tmp_path, postgres, valkey):
    url = postgres.url.rpartition("/")[0] + "/named-flash sale".replace(" ", "%20")
    async with make_stack(tmp_path, postgres_url=url, redis_url=valkey.url, api=1) as stack:
        assert stack.postgres is None
        assert stack.valkey is None
        assert stack.environment["FLASHSALE_REDIS__URL"] == valkey.url
        connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
        assert await connection.fetchval("SELECT current_database()") == "named-flash sale"
        await connection.close()


async def test_an_unreachable_named_postgres_is_said_without_its_password(tmp_path, valkey):
    url = "postgresql://somebody:hunter2@127.0.0.1:9/flashsale"
    with pytest.raises(ChildFailed, match=r"127\.0\.0\.1:9 refused") as caught:
        await make_stack(tmp_path, postgres_url=url, redis_url=valkey.url).__aenter__()
    assert "hunter2" not in str(caught.value)


async def test_connections_wait_for_a_killed_process_to_come_back(tmp_path, postgres_url, valkey):
    async with make_stack(tmp_path, postgres_url=postgres_url, redis_url=valkey.url, api=1) as stack:
        await stack.kill("api")
        waiting = asyncio.create_task(get(stack.base_url))
        await asyncio.sleep(0)
        child = await stack.start_child("api", 0)
        assert int(await waiting) == child.pid
        again = await stack.restart("api")
        assert child.returncode == 0
        assert int(await get(stack.base_url)) == again.pid
        # The second caller gets the running process.
        assert await stack.start_child("api", 0) is again


async def test_a_child_that_fails_shows_its_log_and_stops_everything(tmp_path):
    broken = [sys.executable, "-c", "import sys; sys.exit('no such queue')"]
    stack = make_stack(tmp_path, commands={**COMMANDS, "payments": broken})
    with pytest.raises(ChildFailed, match=r"(?s)payments 1 ended with 1.*no such queue"):
        await stack.__aenter__()
    assert all(child.returncode is not None for children in stack.children.values() for child in children)
    assert stack.postgres.child.returncode is not None
    assert stack.valkey.child.returncode is not None


async def test_a_port_in_use_is_said_before_anything_starts(tmp_path):
    listening = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with listening:
        stack = make_stack(tmp_path, port=listening.sockets[0].getsockname()[1])
        with pytest.raises(ChildFailed, match="is in use"):
            await stack.__aenter__()
    assert stack.postgres is None


async def test_up_starts_again_what_dies_and_stops_on_a_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(restarts, "RESTART_S", 0.01)
    stack = make_stack(tmp_path, api=1)
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    running = asyncio.create_task(up(stack, console))
    async with asyncio.timeout(60):
        while "Ctrl-C" not in printed.getvalue():
            assert not running.done()
            await asyncio.sleep(0.02)
        api, postgres, valkey = stack.children["api"][0], stack.postgres.child, stack.valkey.child
        await stack.kill("api")
        await stack.postgres.kill()
        await stack.valkey.kill()
        while stack.children["api"][0] is api or stack.postgres.child is postgres or stack.valkey.child is valkey:
            await asyncio.sleep(0.02)
        pids = all_pids(stack)
        assert int(await get(stack.base_url)) == stack.children["api"][0].pid
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    shown = printed.getvalue()
    assert await wait_gone(pids, timeout_s=60)
    assert "api 1 ended with -9; starting it again" in shown
    assert "stopped" in shown
    for secret in (stack.secrets["admin_password"], stack.postgres.url.partition("@")[0].rpartition(":")[2]):
        assert secret not in shown


async def test_a_restart_that_the_machine_refuses_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(restarts, "RESTART_S", 0.001)
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    child = Child("sleeper", ["sleep", "600"], log_path=tmp_path / "log")
    current: Child | None = child
    answers = [OSError(28, "No space left on device"), ChildFailed("too slow"), None]
    stopping = asyncio.Event()

    async def start():
        nonlocal current
        if (answer := answers.pop(0)) is not None:
            raise answer
        current = None
        stopping.set()

    keeping = asyncio.create_task(up_module._keep("sleeper", lambda: current, start, console, stopping))
    await child.kill()
    async with asyncio.timeout(60):
        await keeping
    assert not answers
    assert "No space left" in printed.getvalue()


async def test_up_can_be_stopped_while_it_starts(tmp_path):
    mute = [sys.executable, "-c", "import signal; signal.pause()"]
    stack = make_stack(tmp_path, commands={**COMMANDS, "migrate": mute})
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    running = asyncio.create_task(up(stack, console))
    async with asyncio.timeout(60):
        while not (stack.log_dir / "migrate.log").exists():
            assert not running.done()
            await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        await running
    assert not stack.children["api"]
    assert stack.postgres.child.returncode == 0
