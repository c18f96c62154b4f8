"""Lines of the logs of nginx, the API and the workers that are about one order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LINES_MAX = 10_000
"""Maximum number of lines that are kept."""

TIMES = ("timestamp", "time")
"""Fields that hold the time of a line: of our processes, and of nginx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """What one line says about the order."""

    at: datetime
    source: str
    """The process: what stands before the JSON in the output of `docker compose logs`, or the name of the file."""
    event: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ids:
    """What the lines of an order name."""

    order_id: str
    request_id: str | None
    trace_id: str | None

    def occur_in(self, text: str) -> bool:
        """Return whether one of them stands in a line, wherever."""
        return any(one is not None and one in text for one in (self.order_id, self.request_id, self.trace_id))

    def are_in(self, fields: dict[str, Any]) -> bool:
        """Return whether a field is one of them, or a path or an entry of a batch names the order."""
        if fields.get("order_id") == self.order_id or self.order_id in str(fields.get("path", "")):
            return True
        if any(known and fields.get(name) == known for name, known in self.of_request):
            return True
        return any(one.get("order_id") == self.order_id for one in _batch(fields))

    @property
    def of_request(self) -> tuple[tuple[str, str | None], ...]:
        """Return the fields that each line of a request has."""
        return ("request_id", self.request_id), ("trace_id", self.trace_id)


def lines_about(
    order_id: str, request_id: str | None, texts: Iterable[tuple[str, str]], *, trace_id: str | None = None
) -> Iterator[LogLine]:
    """Yield at most LINES_MAX lines that name the order, its request or its trace.

    `texts`: the source and text of each line. Text that is not a JSON object is left out.
    """
    ids = _Ids(order_id=order_id, request_id=request_id, trace_id=trace_id)
    kept = 0
    for source, text in texts:
        if not ids.occur_in(text):
            continue
        line = _read(source, text, ids)
        if line is not None:
            yield line
            kept += 1
            if kept == LINES_MAX:
                return


def _read(source: str, text: str, ids: _Ids) -> LogLine | None:
    before, brace, rest = text.partition("{")
    try:
        fields = json.loads(brace + rest)
        at = datetime.fromisoformat(next(fields.pop(name) for name in TIMES if name in fields))
    except (ValueError, TypeError, StopIteration):
        return None
    if not ids.are_in(fields):
        return None
    fields.pop("order_id", None)
    if orders := _batch(fields):
        del fields["orders"]
        fields["batch"] = len(orders)
    for name, known in ids.of_request:
        if known is not None and fields.get(name) == known:
            del fields[name]
    event = fields.pop("event", None) or f"{fields.pop('method', '')} {fields.pop('path', '')}".strip()
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return LogLine(at=at, source=before.strip(" |[]") or source, event=str(event), facts=fields)


def _batch(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of a line about a batch of orders."""
    orders = fields.get("orders")
    return [one for one in orders if isinstance(one, dict)] if isinstance(orders, list) else []
