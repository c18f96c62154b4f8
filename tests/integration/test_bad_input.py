"""Commands that cannot do their work say so in one line and fail; what only watches never decides an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import termios

import asyncpg
import psutil
import pytest

from tests.conftest import ROOT, execute, of_this_checkout
from tests.support.commands import CLI, COMMANDS, environment
from tests.support.sinks import closed, full_disk, nothing

READ_POSTGRES = [name for name in COMMANDS if name != "simulator"]
ASK_ONCE = ["audit", "buyers", "admin", "token"]
PRINT = ["audit", "buyers", "token"]
PASSWORD = b"long enough\n"


RUNNING = []


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    while RUNNING:
        process = RUNNING.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def start(command, settings, text=PASSWORD, **streams):
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    process = subprocess.Popen(command, env=settings, cwd=ROOT, **{"start_new_session": True, **streams})
    RUNNING.append(process)
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(text)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdin = None
    return process


def ended(processes):
    """Wait for all, which run at once; gives name, exit code and lines of standard error."""
    for name, process in processes.items():
        _, errors = process.communicate(timeout=90)
        yield name, process.returncode, (errors or b"").decode().splitlines()


def make_admin(settings, *options):
    ((_, code, lines),) = ended({"admin": start([*COMMANDS["admin"], *options], settings)})
    assert code == 0, lines


def assert_one_line(name, code, lines, *words):
    assert code == 1, (name, code, lines)
    said = [line for line in lines if not line.startswith("{")]
    assert len(said) == 1, (name, lines)
    for word in words:
        assert word in said[0], (name, said)


async def test_a_database_that_was_not_migrated_is_one_line_for_every_process(empty_url, valkey):
    processes = {name: start(COMMANDS[name], environment(empty_url, valkey.url, name)) for name in READ_POSTGRES}
    for name, code, lines in ended(processes):
        assert_one_line(name, code, lines, "not migrated", "alembic upgrade head")


async def test_another_schema_is_one_line_for_every_process_and_names_the_object(postgres_url, valkey):
    await execute(postgres_url, "DROP FUNCTION void_requests_v1")
    processes = {name: start(COMMANDS[name], environment(postgres_url, valkey.url, name)) for name in READ_POSTGRES}
    for name, code, lines in ended(processes):
        assert_one_line(name, code, lines, "function void_requests_v1", "missing")


def test_a_server_that_is_not_there_is_one_line_for_what_asks_once(valkey):
    url = "postgresql://somebody:hunter2@127.0.0.1:9/flashsale"
    processes = {name: start(COMMANDS[name], environment(url, valkey.url, name)) for name in ASK_ONCE}
    for name, code, lines in ended(processes):
        assert_one_line(name, code, lines, "database is away")
        assert "hunter2" not in "".join(lines)


@pytest.mark.parametrize("sink", [closed, full_disk, nothing])
async def test_a_result_that_cannot_be_written_is_one_line(postgres_url, valkey, sink):
    settings = environment(postgres_url, valkey.url)
    make_admin(settings)
    processes = {}
    for name in PRINT:
        _, writing = sink()
        command = COMMANDS[name] if writing is not None else ["sh", "-c", 'exec "$@" >&-', "sh", *COMMANDS[name]]
        processes[name] = start(command, settings, stdout=writing)
        if writing is not None:
            os.close(writing)
    for name, code, lines in ended(processes):
        assert_one_line(name, code, lines)


def test_a_file_that_cannot_be_written_is_said_before_the_work(postgres_url, valkey, tmp_path):
    command = [*COMMANDS["buyers"], "--out", str(tmp_path / "missing" / "file")]
    for name, code, lines in ended({"buyers": start(command, environment(postgres_url, valkey.url))}):
        assert code == 1, (name, lines)
        assert "No such file" in lines[-1]


PASSWORDS = {
    "nothing": b"",
    "a newline": b"\n",
    "spaces": b" " * 12 + b"\n",
    "tabs": b"\t" * 12,
    "too short": b"1234567\n",
    "too long": b"x" * 129,
    "far too long": b"x" * 200_000,
    "NUL": b"long\x00enough\n",
    "not UTF-8": b"\xff" * 12,
}


async def test_a_password_that_nobody_should_have_is_refused_in_one_line(postgres_url, valkey, db):
    settings = environment(postgres_url, valkey.url)
    make_admin(settings)
    before = await db.fetchval("SELECT password_hash FROM users")
    processes = {}
    for name, password in PASSWORDS.items():
        processes[name] = start(COMMANDS["admin"], settings, password)
    for name, code, lines in ended(processes):
        assert_one_line(name, code, lines, "password must")
    assert await db.fetchval("SELECT password_hash FROM users") == before


async def test_an_existing_administrator_keeps_the_password_if_only_a_missing_one_is_made(postgres_url, valkey, db):
    settings = environment(postgres_url, valkey.url)
    make_admin(settings, "--if-missing")
    made = await db.fetchval("SELECT password_hash FROM users")

    def give(password, *command):
        done = subprocess.run(command, env=settings, cwd=ROOT, input=password, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    give(b"another one", *CLI, "admin", "password", "admin@example.com")
    changed = await db.fetchval("SELECT password_hash FROM users")
    assert changed != made
    give(PASSWORD, *COMMANDS["admin"], "--if-missing")
    assert await db.fetchval("SELECT password_hash FROM users") == changed


async def test_a_terminal_is_asked_for_the_password_twice_and_does_not_show_it(postgres_url, valkey, db):
    master, terminal = pty.openpty()
    process = start(
        COMMANDS["admin"],
        environment(postgres_url, valkey.url),
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    shown = b""
    for prompt in (b"Password", b"Repeat"):
        while prompt not in shown:
            shown += os.read(master, 1024)
        os.write(master, PASSWORD)
    assert process.wait(60) == 0
    assert b"long enough" not in shown
    assert await db.fetchval("SELECT count(*) FROM users WHERE role = 'admin'") == 1
    os.close(master)


async def test_ctrl_c_ends_a_command_without_a_traceback(postgres_url, valkey, db):
    """While it waits for a lock in the middle of its work."""
    await db.execute("BEGIN; LOCK TABLE users, orders IN ACCESS EXCLUSIVE MODE")
    # The first process waits until the last one has started.
    patient = {"FLASHSALE_POSTGRES__LOCK_TIMEOUT_S": "60", "FLASHSALE_POSTGRES__STATEMENT_TIMEOUT_S": "60"}
    settings = environment(postgres_url, valkey.url) | patient
    processes = {name: start(COMMANDS[name], settings) for name in ASK_ONCE}
    watching = await asyncpg.connect(postgres_url)
    waiting = "SELECT client_port FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    todo = dict(processes)
    while todo:
        ports = {row["client_port"] for row in await watching.fetch(waiting)}
        for name, process in list(todo.items()):
            assert process.poll() is None, (name, process.stderr.read())
            own = {one.laddr.port for one in psutil.Process(process.pid).net_connections("tcp")}
            # One command may wait in several connections, so each is looked for.
            if own & ports:
                del todo[name]
        await asyncio.sleep(0.05)
    await watching.close()
    for process in processes.values():
        process.send_signal(signal.SIGINT)
    for name, code, lines in ended(processes):
        assert code == 130, (name, code, lines)
        assert "Traceback" not in "".join(lines), (name, lines)
    await db.execute("ROLLBACK")


def test_the_simulator_says_what_it_needs(tmp_path, valkey):
    url = "postgresql://somebody@127.0.0.1:9/flashsale"
    damaged = tmp_path / "ledger"
    damaged.write_text("no ledger\n")
    cases = {
        "no secret": {"FLASHSALE_PAYMENTS__GATEWAY_SECRET": ""},
        "damaged": {"FLASHSALE_SIMULATOR__LEDGER_PATH": str(damaged)},
        "a folder": {"FLASHSALE_SIMULATOR__LEDGER_PATH": str(tmp_path)},
    }
    processes = {
        name: start(COMMANDS["simulator"], environment(url, valkey.url, **more)) for name, more in cases.items()
    }
    for name, code, lines in ended(processes):
        assert_one_line(name, code, lines)


def test_the_demo_that_nobody_watches_ends_as_the_sale_does(tmp_path):
    _, writing = closed()
    command = [*CLI, "demo", "--units", "20", "--buyers", "60", "--seconds", "0.5", "--api", "1"]
    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path)],
        env=of_this_checkout(FLASHSALE_SIMULATOR__LATENCY_MEAN_S="0.05"),
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=150,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr.decode()
