"""What clients saw, as the load generator writes it, and the orders that it is compared with.

A history is JSON lines. Times are Unix seconds of the machine that sends.

- `{"kind":"buy","user","key","product","quantity","sent_at","answered_at","status","order_id","code","body","answer"}`:
  one request and its answer; `status` 0: no answer came; `body`: SHA-256 of a 202's body; `answer`: what that says of
  the product, `{"product","name","price","currency","quantity"}` (missing in histories of older versions).
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
    """An order, as far as the audit compares it."""

    order_id: str
    user_id: str
    key: str | None
    """Its request's idempotency key."""
    status: str
    version: int
    product_id: int
    product_name: str
    quantity: int
    unit_price_minor: int
    currency: str
    price_minor: int
    """Of all units."""
    refunded_minor: int = 0
    """What is back of it."""
    refunding_minor: int = 0
    """What may be back of it besides, or not: refunds that are pending."""
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
    """Products of which every buy is here."""


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
        ValueError: naming the line that is none.
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
