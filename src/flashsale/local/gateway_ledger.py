"""The simulated gateway's own ledger: one entry per key, kept in a file of JSON lines that only grows.

Each line is an entry as it was when it was saved; the last line of a key counts. One thread writes and fsyncs; entries
saved meanwhile share the next fsync.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_MODE = 0o600


class LedgerDamagedError(Exception):
    """The ledger file holds a line that was not written by this module; nothing was changed."""


class LedgerLockedError(Exception):
    """Another process has the ledger file open."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One key and what became of it: pending, captured, declined or cancelled."""

    key: str
    charge_id: str
    amount_minor: int
    """0 for a key that was cancelled before it was ever charged."""
    currency: str
    status: str = "pending"
    decline_code: str | None = None
    captures: int = 0
    """How often money was taken: more than 1 is a defect of the gateway, which an audit must see."""
    refunds: dict[str, int] = field(default_factory=dict)
    """Minor units by refund key."""

    @property
    def refunded_minor(self) -> int:
        """Everything given back, in minor units."""
        return sum(self.refunds.values())

    def public(self) -> dict[str, Any]:
        """Give what callers see of it."""
        shown: dict[str, Any] = {
            "id": self.charge_id,
            "key": self.key,
            "status": self.status,
            "amountMinor": self.amount_minor,
            "currency": self.currency,
            "refundedMinor": self.refunded_minor,
            "captures": self.captures,
        }
        if self.decline_code is not None:
            shown["declineCode"] = self.decline_code
        return shown


class Ledger:
    """Every key's entry, in the order in which they were first seen."""

    def __init__(self, path: Path | None) -> None:
        """Read the file at `path` and keep it locked, or begin in memory if it is None.

        A last line that a kill cut short is removed: nobody was told of it.

        Raises:
            LedgerDamagedError: if the file holds anything else that cannot be read.
            LedgerLockedError: if another process has it open.
        """
        self._entries: dict[str, Entry] = {}
        self._descriptor: int | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-ledger")
        self._lines: list[bytes] = []
        self._gathering: asyncio.Task[None] | None = None
        self._last: asyncio.Task[None] | None = None
        if path is not None:
            self._descriptor = _open_locked(path)
            try:
                for entry in _read(self._descriptor):
                    self._entries[entry.key] = entry
            except (TypeError, ValueError) as error:
                os.close(self._descriptor)
                raise LedgerDamagedError(f"{path}: {error}") from error

    def __iter__(self) -> Iterator[Entry]:
        """Go through the entries there are now; safe if keys are added meanwhile."""
        return iter(list(self._entries.values()))

    def get(self, key: str) -> Entry | None:
        """Look a key up."""
        return self._entries.get(key)

    def add(self, entry: Entry) -> None:
        """Take a new key in. It reaches the file when it is saved."""
        self._entries[entry.key] = entry

    async def save(self, entry: Entry) -> None:
        """Write the entry as it is now; returns when it survives a kill.

        Raises:
            OSError: if it cannot be written.
        """
        if self._descriptor is None:
            return
        self._lines.append(json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n")
        if self._gathering is None:
            self._gathering = self._last = asyncio.create_task(self._write_gathered(self._last))
        await asyncio.shield(self._gathering)

    def close(self) -> None:
        """Wait for the last write and let go of the file."""
        self._thread.shutdown()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def _write_gathered(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before  # if it failed, so does everything after it: the file may end in half a line
        lines, self._lines = self._lines, []
        self._gathering = None
        await asyncio.get_running_loop().run_in_executor(self._thread, self._append, b"".join(lines))

    def _append(self, data: bytes) -> None:
        assert self._descriptor is not None
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)


def _open_locked(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise LedgerLockedError(f"{path} is open in another process") from error
    return descriptor


def _read(descriptor: int) -> Iterator[Entry]:
    """Give the entries of a ledger file and cut off a torn last line."""
    whole = 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            yield Entry(**json.loads(line))
            whole += len(line)
    os.ftruncate(descriptor, whole)
