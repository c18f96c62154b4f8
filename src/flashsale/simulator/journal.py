"""A file of JSON lines that only grows: locked by one process, written and fsynced by one thread.

Lines that come while the thread writes share the next fsync. A line that a kill cut short is removed at the next start.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_MODE = 0o600


class LedgerLockedError(Exception):
    """Another process has the ledger file open."""


class LedgerFailedError(Exception):
    """The ledger file cannot be written any more; what was not flushed is not to be shown to anyone."""


class Journal:
    """Appends lines to a file from one thread; lines that come while it writes share the next fsync."""

    def __init__(self, descriptor: int) -> None:
        """Take over an open, locked file that ends with a whole line."""
        self._descriptor = descriptor
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-ledger")
        self._lines: list[bytes] = []
        self._gathering = asyncio.Event()
        self._writing = self._gathering
        self._task: asyncio.Task[None] | None = None
        self._error: OSError | None = None
        self.failed = asyncio.Event()

    def append(self, line: bytes) -> None:
        """Hand over a line; `flushed` says when it is safe. After a failure nothing more is written."""
        if self._error is not None:
            return
        self._lines.append(line)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_all())

    async def flushed(self) -> None:
        """Wait until every line handed over so far is on the disk.

        Raises:
            LedgerFailedError: if a line could not be written.
        """
        if self._task is not None:
            await (self._gathering if self._lines else self._writing).wait()
        if self._error is not None:
            raise LedgerFailedError(str(self._error)) from self._error

    async def close(self) -> None:
        """Wait for the last write, then close the file, which unlocks it."""
        if self._task is not None:
            await self._task
        self._thread.shutdown()
        os.close(self._descriptor)

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._lines and self._error is None:
            lines, self._lines = self._lines, []
            self._writing, self._gathering = self._gathering, asyncio.Event()
            try:
                await loop.run_in_executor(self._thread, self._write, b"".join(lines))
            except OSError as error:
                self._error = error
                self.failed.set()
                self._gathering.set()
            self._writing.set()
        self._task = None

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)


def render_line(record: dict[str, Any]) -> bytes:
    """Render a record as a line."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def open_locked(path: Path) -> int:
    """Open a file for reading and appending, and lock it against every other process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise LedgerLockedError(f"{path} is open in another process") from error
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # a file that was just made must not vanish with a power cut
    finally:
        os.close(directory)
    return descriptor


def read_records(descriptor: int) -> Iterator[dict[str, Any]]:
    """Return the records of a ledger file and cut off a torn last line."""
    whole = 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            record = json.loads(line)
            if not isinstance(record, dict):
                raise TypeError(f"line {number} is not an object")
            yield record
            whole += len(line)
    os.ftruncate(descriptor, whole)
