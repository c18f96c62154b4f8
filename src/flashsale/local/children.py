"""Child processes that end with their parent, even after SIGKILL."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the thread that forked it ends."""

LOG_TAIL_LINES = 15
LOG_TAIL_BYTES = 16_384

PROCESS_NAME_MAX = 15
"""Linux cuts the names of processes to this many bytes: proc(5), comm."""

KILLED_S = 5.0
"""Maximum wait until killed descendants have ended."""

# Loaded at import, because nothing may be imported between fork and exec.
_prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)


def _die_with(parent: int) -> None:
    """Ask for SIGKILL at the parent's end; runs between fork and exec, after a change of user, which clears this."""
    assert _prctl is not None  # noqa: S101 - asked before the fork
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # The parent ended between fork and prctl.
        os._exit(1)


class ChildFailed(Exception):
    """A child ended, or was not ready in time; the message contains the end of its log."""


class Child:
    """A running child process; its output goes to a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        inherited_fds: Sequence[int] = (),
        cwd: Path | None = None,
        user_id: int | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        """Start it.

        `environment` replaces this process' environment; `inherited_fds` stay open in the child; `user_id` is its user
        and group, if not ours (root only); `stdin` is a file descriptor to read from.

        Raises:
            ChildFailed: on a system without prctl(2), where children could outlive this process.
            RuntimeError: outside the main thread, because the child would be killed when that thread ends.
            OSError: if the command cannot be run.
        """
        if _prctl is None:
            raise ChildFailed(f"{name}: the local stack runs on Linux only.")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{name}: children are started from the main thread, whose end is the process' end")
        self.name = name
        self.log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                stdin=stdin,
                stdout=log,
                stderr=log,
                env=None if environment is None else dict(environment),
                pass_fds=inherited_fds,
                cwd=cwd,
                user=user_id,
                group=user_id,
                extra_groups=None if user_id is None else [],
                preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 - ctypes is loaded before the fork
                start_new_session=True,
            )
        self._watch: int | None = os.pidfd_open(self._process.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        code = self._process.poll()
        if code is not None and self._watch is not None:
            os.close(self._watch)
            self._watch = None
        return code

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            self._process.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """Send it and its descendants a signal, unless it has ended, after which its descendants cannot be found."""
        if self.returncode is None:
            others = descendants(self.pid)
            self.send(number)
            for pid in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    async def wait(self) -> int:
        """Wait for its end and return its exit code. Any number of tasks, in any event loop, may wait at once."""
        while (code := self.returncode) is None:
            if self._watch is not None:
                # A separate descriptor for each waiter, because an event loop calls one reader per descriptor.
                watch = os.dup(self._watch)
                try:
                    await _readable(watch)
                finally:
                    os.close(watch)
        return code

    async def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = 25.0) -> int:
        """Send it a signal, wait, and kill it if it does not end in time; returns its exit code."""
        self.send(number)
        try:
            async with asyncio.timeout(timeout_s):
                return await self.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    async def kill(self) -> None:
        """Kill it and wait until it has ended, also if the caller is cancelled."""
        self.send(signal.SIGKILL)
        waiting = asyncio.ensure_future(self.wait())
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await waiting
            raise

    async def kill_all(self) -> None:
        """Kill it and its descendants and wait until they have ended, also if the caller is cancelled."""
        others = descendants(self.pid) if self.returncode is None else []
        self.send_all(signal.SIGKILL)
        try:
            await wait_gone(others, timeout_s=KILLED_S)
        finally:
            await self.kill()

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def failure(self, problem: str) -> ChildFailed:
        """Make the error that says what happened to it."""
        return ChildFailed(f"{self.name} {problem} (log: {self.log_path})\n{self.log_tail()}")


async def start_ready(
    name: str,
    command: Sequence[str],
    *,
    log_path: Path,
    environment: Mapping[str, str],
    inherited_fds: Sequence[int] = (),
    cwd: Path | None = None,
    timeout_s: float = 90.0,
) -> Child:
    """Start a child with `--ready-fd N` and wait for its line on that pipe.

    Raises:
        ChildFailed: if it ends or is silent for `timeout_s`; a silent child is stopped.
    """
    reading, writing = os.pipe()
    try:
        try:
            child = Child(
                name,
                [*command, "--ready-fd", str(writing)],
                log_path=log_path,
                environment=environment,
                inherited_fds=[*inherited_fds, writing],
                cwd=cwd,
            )
        finally:
            os.close(writing)
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the result.
            async with asyncio.timeout(timeout_s):
                line = await _read_line(reading)
        except TimeoutError:
            await child.stop(timeout_s=2)
            raise child.failure(f"was not ready within {timeout_s:g} s") from None
        except asyncio.CancelledError:
            await child.kill()
            raise
    finally:
        os.close(reading)
    if not line:
        # The pipe closed without a line, so the child is ending.
        await child.stop(timeout_s=5)
        raise child.failure(f"ended with {child.returncode} before it was ready")
    return child


async def run_to_end(
    name: str,
    command: Sequence[str],
    *,
    log_path: Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user_id: int | None = None,
    text: str = "",
    timeout_s: float = 120.0,
) -> None:
    """Run a command with `text` (at most a pipe's 64 KiB) on its standard input, and wait for its end.

    Raises:
        ChildFailed: if it fails, or takes longer than `timeout_s`, after which it is stopped.
    """
    reading, writing = os.pipe()
    try:
        child = Child(
            name, command, log_path=log_path, environment=environment, cwd=cwd, user_id=user_id, stdin=reading
        )
        os.write(writing, text.encode())
    finally:
        os.close(reading)
        os.close(writing)
    try:
        async with asyncio.timeout(timeout_s):
            code = await child.wait()
    except TimeoutError:
        await child.stop(timeout_s=2)
        raise child.failure(f"took longer than {timeout_s:g} s") from None
    except asyncio.CancelledError:
        await child.kill()
        raise
    if code:
        raise child.failure(f"failed with {code}")


async def all_of(*parts: Awaitable[object]) -> None:
    """Await several coroutines at once; the first failure cancels the others, waits for them and is raised unchanged.

    Unlike `asyncio.gather`, nothing continues to start while the caller cleans up after a failure.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wait_until(check: Callable[[], Awaitable[bool]], *, child: Child, timeout_s: float, what: str) -> None:
    """Call `check` until it returns true; fails as soon as the child ends.

    Raises:
        ChildFailed: if it ends, or `timeout_s` is over.
    """
    deadline = time.monotonic() + timeout_s
    while not await check():
        if child.returncode is not None:
            raise child.failure(f"ended with {child.returncode}")
        if time.monotonic() > deadline:
            raise child.failure(f"did not {what} within {timeout_s:g} s")
        # The server reports on no pipe, so it must be polled.
        await asyncio.sleep(0.02)


def working_in(directory: Path, program: str) -> list[int]:
    """Return the processes of a program with the working directory `directory`, as far as this user may see them.

    The program's name is compared too, because a user's shell may have the same working directory.
    """
    wanted, name = str(directory.resolve()), program[:PROCESS_NAME_MAX]
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name()[:PROCESS_NAME_MAX] == name and process.cwd() == wanted:
                found.append(process.pid)
    return found


def descendants(pid: int) -> list[int]:
    """Return the children of a process, their children and so on; those that end meanwhile may be missing."""
    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


async def wait_gone(pids: Sequence[int], *, timeout_s: float, kill: bool = False) -> bool:
    """Wait until all these processes have ended, after killing them if `kill`; False after the time-out.

    They need not be our children. The caller has made sure that these are the right processes.
    """
    watches = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            watches.append(os.pidfd_open(pid))
    try:
        for watch in watches if kill else ():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(watch, signal.SIGKILL)
        async with asyncio.timeout(timeout_s):
            for watch in watches:
                await _readable(watch)
    except TimeoutError:
        return False
    else:
        return True
    finally:
        for watch in watches:
            os.close(watch)


def pss_bytes(pid: int) -> int:
    """Sum the proportional set size of a process and its descendants, in bytes; ended processes count 0."""
    total = 0
    for one in (pid, *descendants(pid)):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(one).memory_full_info().pss
    return total


async def _read_line(fd: int) -> bytes:
    await _readable(fd)
    return os.read(fd, 64)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
