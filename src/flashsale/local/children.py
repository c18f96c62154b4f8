"""Child processes that end with their parent, whatever ends it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the thread that forked it ends."""

LOG_TAIL_LINES = 15

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def _die_with(parent: int) -> None:
    """Run between fork and exec. Children are started from the main thread, whose end is the process' end."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # The parent died between fork and prctl.
        os._exit(1)


class ChildFailed(Exception):
    """A child ended, or was not ready in time; the message has the end of its log."""


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
    ) -> None:
        """Start it. `environment` replaces this process' one; `inherited_fds` stay open in it."""
        self.name = name
        self.log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if environment is None else dict(environment),
                pass_fds=inherited_fds,
                cwd=cwd,
                preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 - ctypes is loaded before the fork
                start_new_session=True,
            )
        self._watch = os.pidfd_open(self._process.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end and give its exit code."""
        while self.returncode is None:
            await _readable(self._watch)
            self._process.wait()
        return self._process.returncode

    async def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = 25.0) -> int:
        """Send it a signal, wait, and kill it if it does not end in time; gives its exit code."""
        self.send(number)
        try:
            return await asyncio.wait_for(self.wait(), timeout_s)
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    def log_tail(self) -> str:
        """Give the last lines of its log."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

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
    timeout_s: float = 30.0,
) -> Child:
    """Start a child with `--ready-fd N` and wait for its line on that pipe.

    Raises:
        ChildFailed: if it ends or is silent for `timeout_s`; it is stopped then.
    """
    reading, writing = os.pipe()
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
        line = await asyncio.wait_for(_read_line(reading), timeout_s)
    except TimeoutError:
        await child.stop(timeout_s=2)
        raise child.failure(f"was not ready within {timeout_s:g} s") from None
    except asyncio.CancelledError:
        child.send(signal.SIGKILL)
        raise
    finally:
        os.close(reading)
    if not line:
        # The pipe closed without a line: it is ending.
        await child.stop(timeout_s=5)
        raise child.failure(f"ended with {child.returncode} before it was ready")
    return child


async def _read_line(fd: int) -> bytes:
    await _readable(fd)
    return os.read(fd, 64)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Event = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)


async def wait_until(check: object, *, child: Child, timeout_s: float, what: str) -> None:
    """Call the async `check` until it gives true; fails as soon as the child ends."""
    deadline = time.monotonic() + timeout_s
    while not await check():  # type: ignore[operator]
        if child.returncode is not None:
            raise child.failure(f"ended with {child.returncode}")
        if time.monotonic() > deadline:
            raise child.failure(f"did not {what} within {timeout_s:g} s")
        await asyncio.sleep(0.02)


def pss_bytes(pid: int) -> int:
    """Sum the proportional set size of a process and its descendants, in bytes; those that are gone count 0."""
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
                break
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += pss_bytes(int(child))
    return total
