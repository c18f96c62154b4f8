"""The simulated gateway's books: what became of every key, kept over restarts in an append-only file."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Entry:
    """One key. `status` is pending, captured, declined or cancelled; only pending ever changes."""

    key: str
    charge_id: str
    amount_minor: int
    currency: str
    status: str = "pending"
    decline_code: str | None = None
    captures: int = 0
    refunds: dict[str, int] = field(default_factory=dict)
    """Minor units by the refund's own idempotency key."""

    @property
    def refunded_minor(self) -> int:
        """How much went back."""
        return sum(self.refunds.values())

    def public(self) -> dict[str, object]:
        """Give the entry as the API shows it."""
        answer: dict[str, object] = {
            "id": self.charge_id,
            "key": self.key,
            "status": self.status,
            "amountMinor": self.amount_minor,
            "refundedMinor": self.refunded_minor,
            "currency": self.currency,
            "captures": self.captures,
        }
        if self.decline_code is not None:
            answer["declineCode"] = self.decline_code
        return answer


class Ledger:
    """All entries. With a path, `save` returns once the entry is on disk; several savers share one fsync."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there; entries that were pending when the process died were never charged."""
        self._entries: dict[str, Entry] = {}
        self._file: IO[str] | None = None
        self._lines: list[str] = []
        self._writing: asyncio.Task[None] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            for line in path.read_text().splitlines() if path.exists() else ():
                try:
                    entry = Entry(**json.loads(line))
                except (ValueError, TypeError):
                    # The last line of a killed process may be cut off: it was never answered.
                    continue
                self._entries[entry.key] = entry
            self._file = path.open("a")
            # After a cut-off line the next one begins anew.
            self._file.write("\n")

    def __iter__(self) -> Iterator[Entry]:
        """Go through the entries as they are now."""
        return iter(list(self._entries.values()))

    def get(self, key: str) -> Entry | None:
        """Give a key's entry."""
        return self._entries.get(key)

    def add(self, entry: Entry) -> None:
        """Note a new key; it is not on disk before `save`."""
        self._entries[entry.key] = entry

    async def save(self, entry: Entry) -> None:
        """Put an entry on disk."""
        if self._file is None:
            return
        self._lines.append(json.dumps(asdict(entry)) + "\n")
        # A write under way does not hold this line: wait for the one after, which the first to wake begins.
        writing = self._writing
        if writing is not None and not writing.done():
            await asyncio.shield(writing)
        if self._lines and (self._writing is None or self._writing.done()):
            lines, self._lines = self._lines, []
            self._writing = asyncio.create_task(asyncio.to_thread(self._write, lines))
        if self._writing is not None:
            await asyncio.shield(self._writing)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, lines: list[str]) -> None:
        if self._file is not None:
            self._file.writelines(lines)
            self._file.flush()
            os.fsync(self._file.fileno())
