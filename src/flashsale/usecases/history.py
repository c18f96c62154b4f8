"""The history that a load generator writes of its clients, and the orders for the comparison.

A history is JSON lines. Times are Unix seconds of the machine that sends.

- `{"kind":"buy","user","key","product","quantity","sent_at","answered_at","status","order_id","code","body","answer"}`:
  one request and its answer; `status` 0: no answer came; `body`: SHA-256 of a 202's body; `answer`: the
  product in that body, `{"product","name","price","currency","quantity"}` (missing in histories of older versions).
- `{"kind":"order","reader","order_id","version","status"}`: a reader saw an order in a version (polling or stream).
- `{"kind":"stock","reader","product","version","stock","last"}`: a reader saw a stock; `last`: it stayed to the end.
- `{"kind":"complete","product"}`: nobody else bought this product.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """The fields of an order that the audit compares."""

    order_id: str
    user_id: str
    key: str | None
    """The idempotency key of its request."""
    status: str
    version: int
    product_id: int
    product_name: str
    quantity: int
    unit_price_minor: int
    currency: str
    price_minor: int
    """Price of all units."""
    refunded_minor: int = 0
    """The refunded part of the price."""
    refunding_minor: int = 0
    """Pending refunds, which may or may not have been made."""
    created_at_s: float
    """Unix time."""
    overdue_s: float = 0.0
    """Seconds since the order was due; negative before its due time, 0 for a final order."""


@dataclass(slots=True)
class History:
    """The lines of a history, by kind."""

    buys: list[dict[str, Any]] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    stocks: list[dict[str, Any]] = field(default_factory=list)
    complete: set[int] = field(default_factory=set)
    """Products whose every buy is in the history."""


_TEXT, _TIME, _OPTIONAL = (str,), (int, float), (str, type(None))

FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "buy": {
        "user": _TEXT,
        "key": _OPTIONAL,
        "product": (int,),
        "quantity": (int,),
        "sent_at": _TIME,
        "answered_at": _TIME,
        "status": (int,),
        "order_id": _OPTIONAL,
        "code": _OPTIONAL,
        "body": _OPTIONAL,
    },
    "order": {"reader": _TEXT, "order_id": _TEXT, "version": (int,), "status": _TEXT},
    "stock": {"reader": _TEXT, "product": (int,), "version": (int,), "stock": (int,)},
    "complete": {"product": (int,)},
}
"""The fields that a line of a kind must have, and their types."""


def read_history(lines: Iterable[str]) -> History:
    """Read a history.

    Raises:
        ValueError: if a line is not valid; names the line.
    """
    history = History()
    kinds = {"buy": history.buys, "order": history.orders, "stock": history.stocks}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            fields = FIELDS[entry["kind"]]
            if not all(isinstance(entry[name], types) for name, types in fields.items()):
                raise TypeError(line)  # noqa: TRY301
            if entry["kind"] == "complete":
                history.complete.add(entry["product"])
            else:
                kinds[entry["kind"]].append(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} is no line of a history: {line[:80]!r}") from error
    return history
