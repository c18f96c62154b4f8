"""The simulated gateway's own ledger: one entry per key, kept in a file of JSON lines that only grows.

The file has one line per change (`op`: open, capture, decline, cancel, refund). Changes happen in memory first, in one
step of the event loop; an answer that shows a change waits for `Ledger.flushed`, so nobody sees what a SIGKILL could
still undo. One thread writes and fsyncs; changes that come meanwhile share the next fsync.
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_MODE = 0o600


class LedgerDamagedError(Exception):
    """The ledger file holds a line that was not written by this module; nothing was changed."""


class LedgerLockedError(Exception):
    """Another process has the ledger file open."""


class LedgerFailedError(Exception):
    """The ledger file cannot be written any more; what was not flushed is not to be shown to anyone."""


class ChargeStatus(enum.StrEnum):
    """What became of a key."""

    # Seen, not decided. Also a charge that hangs, or that was in flight when the process died: nothing was captured.
    PENDING = "pending"
    # The money was taken. Final.
    CAPTURED = "captured"
    # No money was taken. Final.
    DECLINED = "declined"
    # No money was taken and none ever will be under this key. Final.
    CANCELLED = "cancelled"


@dataclass(slots=True, kw_only=True)
class Entry:
    """One key; changed by `Ledger` only (and `requests` by the simulator)."""

    key: str
    status: ChargeStatus
    amount_minor: int
    """0 for a key that was cancelled before it was ever charged."""
    currency: str
    """Empty for a key that was cancelled before it was ever charged."""
    reference: str | None
    decline_code: str | None = None
    captures: int = 0
    """How often money was taken: more than 1 is a defect of the gateway, which an audit must see."""
    requests: int = 0
    """Charge requests under this key; those after its last change are forgotten by a restart."""
    refunds: dict[str, int] | None = None
    """Minor units by refund key."""

    @property
    def refunded_minor(self) -> int:
        """Everything given back, in minor units."""
        return sum(self.refunds.values()) if self.refunds else 0

    def as_line(self, charge_id: str) -> bytes:
        """Return the audit's view of the entry: one JSON line."""
        return _line(
            {
                "id": charge_id,
                "key": self.key,
                "status": self.status,
                "amountMinor": self.amount_minor,
                "currency": self.currency,
                "refundedMinor": self.refunded_minor,
                "captures": self.captures,
                "requests": self.requests,
            }
        )


class Ledger:
    """Every key's entry, in the order in which they were first seen.

    The methods that change an entry do not wait: call `flushed` before telling anyone.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file at `path` and keep it locked, or begin in memory if it is None.

        A last line that a kill cut short is removed: nobody was told of it.

        Raises:
            LedgerDamagedError: if the file holds anything else that cannot be read.
            LedgerLockedError: if another process has it open.
        """
        self._entries: dict[str, Entry] = {}
        self._journal: Journal | None = None
        if path is not None:
            descriptor = _open_locked(path)
            try:
                for record in _read(descriptor):
                    self._apply(record)
            except (KeyError, TypeError, ValueError) as error:
                os.close(descriptor)
                raise LedgerDamagedError(f"{path}: {error!r}") from error
            self._journal = Journal(descriptor)

    def __len__(self) -> int:
        """Count the keys."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the present entries; safe if keys are added during the iteration."""
        return iter(list(self._entries.values()))

    @property
    def failed(self) -> asyncio.Event | None:
        """Set when the file cannot be written any more; None in memory, where that cannot happen."""
        return self._journal.failed if self._journal else None

    def get(self, key: str) -> Entry | None:
        """Look a key up."""
        return self._entries.get(key)

    def open(self, key: str, *, amount_minor: int, currency: str, reference: str | None) -> Entry:
        """Begin a key that was never seen."""
        self._change("open", key, amountMinor=amount_minor, currency=currency, reference=reference)
        return self._entries[key]

    def capture(self, entry: Entry) -> None:
        """Take the money of a pending entry."""
        self._change("capture", entry.key, requests=entry.requests)

    def decline(self, entry: Entry, code: str) -> None:
        """Refuse the money of a pending entry."""
        self._change("decline", entry.key, code=code, requests=entry.requests)

    def cancel(self, key: str) -> Entry:
        """Make sure that a pending or unseen key is never captured."""
        entry = self._entries.get(key)
        self._change("cancel", key, requests=entry.requests if entry else 0)
        return self._entries[key]

    def refund(self, entry: Entry, refund_key: str, amount_minor: int) -> None:
        """Give back a part of a captured entry's money under a refund key that is new to it."""
        self._change("refund", entry.key, refundKey=refund_key, amountMinor=amount_minor)

    async def flushed(self) -> None:
        """Wait until every change made so far survives a kill.

        Raises:
            LedgerFailedError: if that cannot be had any more.
        """
        if self._journal is not None:
            await self._journal.flushed()

    async def close(self) -> None:
        """Write what is left and let go of the file."""
        if self._journal is not None:
            await self._journal.close()

    def _change(self, op: str, key: str, **fields: object) -> None:
        record: dict[str, Any] = {"op": op, "key": key, **fields}
        self._apply(record)
        if self._journal is not None:
            self._journal.append(_line(record))

    def _apply(self, record: dict[str, Any]) -> None:
        """Change the entry as a record says; the same code for a change now and for one read from the file."""
        key: str = record["key"]
        match record["op"]:
            case "open":
                self._entries[key] = Entry(
                    key=key,
                    status=ChargeStatus.PENDING,
                    amount_minor=record["amountMinor"],
                    currency=record["currency"],
                    reference=record["reference"],
                )
            case "capture":
                entry = self._entries[key]
                entry.status = ChargeStatus.CAPTURED
                entry.captures += 1
                entry.requests = record["requests"]
            case "decline":
                entry = self._entries[key]
                entry.status = ChargeStatus.DECLINED
                entry.decline_code = record["code"]
                entry.requests = record["requests"]
            case "cancel":
                entry = self._entries.get(key) or Entry(
                    key=key, status=ChargeStatus.PENDING, amount_minor=0, currency="", reference=None
                )
                self._entries[key] = entry
                entry.status = ChargeStatus.CANCELLED
                entry.requests = record["requests"]
            case "refund":
                entry = self._entries[key]
                if entry.refunds is None:
                    entry.refunds = {}
                entry.refunds[record["refundKey"]] = record["amountMinor"]
            case op:
                raise ValueError(f"unknown op {op!r}")


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


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _open_locked(path: Path) -> int:
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


def _read(descriptor: int) -> Iterator[dict[str, Any]]:
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
