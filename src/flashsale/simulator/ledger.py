"""The simulated gateway's own ledger: one entry per key or intent, kept in a file of JSON lines that only grows.

The file has one line per change. `op` says which: open, authorize, capture, decline, cancel, refund, refund_failed,
dispute; or `stripe`, which holds the changes of money of one call of Stripe's dialect, the objects that it wrote and
its answer, so that a kill keeps all of the call or nothing. Changes happen in memory first, in one step of the event
loop; an answer that shows a change waits for `Ledger.flushed`, so nobody sees what a SIGKILL could still undo.
"""

from __future__ import annotations

import enum
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashsale.simulator.journal import Journal, open_locked, read_records, render_line

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path

STRIPE = "stripe"
"""The `op` of a call of Stripe's dialect."""


class LedgerDamagedError(Exception):
    """The ledger file holds a line that was not written by this module; nothing was changed."""


class ChargeStatus(enum.StrEnum):
    """What became of a key, or of an intent."""

    # Seen, not decided. Also a charge that hangs, or that was in flight when the process died: nothing was captured.
    PENDING = "pending"
    # The money of an intent is held and not taken: it is captured or cancelled later.
    AUTHORIZED = "authorized"
    # The money was taken. Final.
    CAPTURED = "captured"
    # No money was taken. Final for a key; the buyer of an intent may try again.
    DECLINED = "declined"
    # No money was taken and none ever will be under this key. Final.
    CANCELLED = "cancelled"


@dataclass(slots=True, kw_only=True)
class Entry:
    """One key or intent; changed by `Ledger` only (and `requests` by the simulator)."""

    key: str
    """The idempotency key of a charge, or the id of an intent."""
    status: ChargeStatus
    amount_minor: int
    """0 for a key that was cancelled before it was ever charged; what was taken, if that is less than was asked for."""
    currency: str
    """Empty for a key that was cancelled before it was ever charged."""
    reference: str | None
    intent: bool = False
    order_id: str | None = None
    """Of an intent: what its metadata says."""
    decline_code: str | None = None
    captures: int = 0
    """How often money was taken: more than 1 is a defect of the gateway, which an audit must see."""
    voids: int = 0
    """How often held money was let go."""
    disputes: int = 0
    """How often the buyer's bank asked for the money back."""
    requests: int = 0
    """Charge requests under this key; those after its last change are forgotten by a restart."""
    refunds: dict[str, int] | None = None
    """Minor units by refund key, or by the refund's id."""

    @property
    def refunded_minor(self) -> int:
        """Everything given back, in minor units."""
        return sum(self.refunds.values()) if self.refunds else 0

    @property
    def charge_id(self) -> str:
        """The id that callers see: of the charge, or of the intent."""
        return self.key if self.intent else derived_id("ch", self.key)

    def as_line(self, charge_id: str) -> bytes:
        """Return the audit's view of the entry: one JSON line."""
        line: dict[str, Any] = {
            "id": charge_id,
            "key": self.key,
            "status": self.status,
            "amountMinor": self.amount_minor,
            "currency": self.currency,
            "refundedMinor": self.refunded_minor,
            "captures": self.captures,
            "requests": self.requests,
        }
        if self.intent:
            line |= {"intent": self.key, "orderId": self.order_id, "voids": self.voids, "disputes": self.disputes}
        return render_line(line)


class Ledger:
    """Every entry, in the order in which they were first seen.

    The methods that change an entry do not wait: call `flushed` before telling anyone.
    """

    def __init__(self, path: Path | None, *, stripe: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Read the file at `path` and keep it locked, or begin in memory if it is None.

        `stripe` takes each record of Stripe's dialect, those of the file first. A last line that a kill cut short is
        removed: nobody was told of it.

        Raises:
            LedgerDamagedError: if the file holds anything else that cannot be read.
            LedgerLockedError: if another process has it open.
        """
        self._entries: dict[str, Entry] = {}
        self._stripe = stripe
        self._journal: Journal | None = None
        if path is not None:
            descriptor = open_locked(path)
            try:
                for record in read_records(descriptor):
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

    def replay(self, record: dict[str, Any]) -> None:
        """Apply a record of another ledger in memory; it is not written."""
        self._apply(record)

    def write_stripe(self, record: dict[str, Any]) -> None:
        """Write all that one call of Stripe's dialect changed; `record["money"]` holds records like the others."""
        self._write({"op": STRIPE, **record})

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
        self._write({"op": op, "key": key, **fields})

    def _write(self, record: dict[str, Any]) -> None:
        self._apply(record)
        if self._journal is not None:
            self._journal.append(render_line(record))

    def _apply(self, record: dict[str, Any]) -> None:
        """Change what a record says; the same code for a change now and for one read from the file."""
        if record["op"] != STRIPE:
            self._move(record)
            return
        for money in record.get("money", ()):
            self._move(money)
        if self._stripe is not None:
            self._stripe(record)

    def _move(self, record: dict[str, Any]) -> None:
        key: str = record["key"]
        match record["op"]:
            case "open":
                self._entries[key] = Entry(
                    key=key,
                    status=ChargeStatus.PENDING,
                    amount_minor=record["amountMinor"],
                    currency=record["currency"],
                    reference=record["reference"],
                    intent=record.get("intent", False),
                    order_id=record.get("orderId"),
                )
                return
            case "cancel":
                self._entries.setdefault(
                    key, Entry(key=key, status=ChargeStatus.PENDING, amount_minor=0, currency="", reference=None)
                )
        _moved(self._entries[key], record)


def derived_id(prefix: str, key: str) -> str:
    """Return the simulator's id of what a key made."""
    return f"{prefix}_{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}"


def _moved(entry: Entry, record: dict[str, Any]) -> None:
    match record["op"]:
        case "authorize":
            entry.status = ChargeStatus.AUTHORIZED
        case "capture":
            entry.status = ChargeStatus.CAPTURED
            entry.captures += 1
            entry.amount_minor = record.get("amountMinor", entry.amount_minor)
        case "decline":
            entry.status = ChargeStatus.DECLINED
            entry.decline_code = record["code"]
        case "cancel":
            entry.voids += entry.status is ChargeStatus.AUTHORIZED
            entry.status = ChargeStatus.CANCELLED
        case "refund":
            entry.refunds = {**(entry.refunds or {}), record["refundKey"]: record["amountMinor"]}
        case "refund_failed":
            entry.refunds = {key: minor for key, minor in (entry.refunds or {}).items() if key != record["refundKey"]}
        case "dispute":
            entry.disputes += 1
        case op:
            raise ValueError(f"unknown op {op!r}")
    entry.requests = record.get("requests", entry.requests)
