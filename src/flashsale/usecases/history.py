"""What clients saw, as the load generator writes it, compared with what became of it.

A history is JSON lines. Times are Unix seconds of the machine that sends.

- `{"kind":"buy","user","key","product","quantity","sent_at","answered_at","status","order_id","code","body"}`: one
  request and its answer; `status` 0: no answer came; `body`: SHA-256 of a 202's body.
- `{"kind":"order","reader","order_id","version","status"}`: a reader saw an order in a version (polling or stream).
- `{"kind":"stock","reader","product","version","stock","last"}`: a reader saw a stock; `last`: it stayed to the end.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flashsale.domain.orders import FINAL, OrderStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flashsale.domain.products import LiveStock

ACCEPTED = 202
LEASING = frozenset({0, ACCEPTED, 500, 502, 503, 504})
"""Answers (0: none) of requests that may have held a lease; a refusal never holds one."""

UNDECIDED = LEASING - {ACCEPTED}
"""Answers after which a lease may go on: until the same request comes again, or until it is reconciled."""

RECONCILE_S = 3.0
"""How long after its deadline a lease may still hold its units: the reconciliation runs every second."""

LOOKBACK_S = 1.0
"""A sold-out answer may be as old as this (docs/architecture.md)."""

CLOCKS_S = 0.05
"""How much the clients' clock and the database's may differ: they are one machine's, read at different moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How an invariant fared."""

    invariant: str
    promise: str
    checked: int
    """How many things were looked at."""
    violations: int
    sample: tuple[str, ...] = ()
    """Ids of some that violate it."""
    skipped: str | None = None
    """Why it was not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """An order, as far as the audit compares it."""

    order_id: str
    user_id: str
    status: str
    version: int
    product_id: int
    price_minor: int
    overdue_s: float = 0.0
    """How long ago somebody should have looked at it; negative until then, 0 once it is final."""


@dataclass(slots=True)
class History:
    """The lines of a history, by kind."""

    buys: list[dict[str, Any]] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    stocks: list[dict[str, Any]] = field(default_factory=list)


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
            kinds[entry["kind"]].append(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} is no line of a history: {line[:80]!r}") from error
    return history


def check_history(
    history: History,
    orders: Sequence[OrderRow],
    allotments: dict[int, int],
    changes: dict[int, Sequence[tuple[float, int]]],
    stocks: dict[int, LiveStock],
    *,
    overdue_s: float,
    lease_s: float,
) -> list[Checked]:
    """Check the invariants that only clients can show.

    `allotments`: units per product, the same all through the history. `changes`: claims (negative) and releases by
    time, per product. `stocks`: the live stock now. An order that is not final may be overdue by `overdue_s` seconds. A
    lease lives `lease_s` seconds.
    """
    by_id = {order.order_id: order for order in orders}
    return [
        _accepted(history, by_id, overdue_s),
        _versions(history),
        _replays(history),
        _last_stocks(history, stocks),
        _sold_out(history, allotments, changes, lease_s),
    ]


def _result(invariant: str, promise: str, checked: int, bad: list[str]) -> Checked:
    return Checked(invariant=invariant, promise=promise, checked=checked, violations=len(bad), sample=tuple(bad[:5]))


def _accepted(history: History, orders: dict[str, OrderRow], overdue_s: float) -> Checked:
    seen = {buy["order_id"]: buy for buy in history.buys if buy["status"] == ACCEPTED}
    bad = [
        order_id
        for order_id, buy in seen.items()
        if order_id not in orders
        or (OrderStatus(orders[order_id].status) not in FINAL and orders[order_id].overdue_s > overdue_s)
        or orders[order_id].user_id != buy["user"]
    ]
    return _result("I4", "Every 202 that a client saw is that client's order, and final or on its way.", len(seen), bad)


def _versions(history: History) -> Checked:
    newest: dict[tuple[str, str], int] = {}
    bad = []
    for entry in itertools.chain(history.orders, history.stocks):
        key = (str(entry["reader"]), str(entry.get("order_id") or entry.get("product")))
        if entry["version"] < newest.get(key, 0):
            bad.append(f"{key[0]} of {key[1]}")
        newest[key] = max(newest.get(key, 0), entry["version"])
    seen = len(history.orders) + len(history.stocks)
    return _result("I6", "Versions seen by one reader never go back.", seen, bad)


def _replays(history: History) -> Checked:
    answers: defaultdict[tuple[str, str], set[tuple[Any, ...]]] = defaultdict(set)
    for buy in history.buys:
        if buy["status"] == ACCEPTED and buy["key"] is not None:
            answers[buy["user"], buy["key"]].add((buy["order_id"], buy["body"], buy["product"], buy["quantity"]))
    bad = [f"{user} {key}" for (user, key), seen in answers.items() if len(seen) > 1]
    return _result("I9", "A repeated key got the same 202.", len(answers), bad)


def _last_stocks(history: History, stocks: dict[int, LiveStock]) -> Checked:
    last = [entry for entry in history.stocks if entry.get("last")]
    bad = [
        str(entry["reader"])
        for entry in last
        if (entry["version"], entry["stock"]) != (stocks[entry["product"]].version, stocks[entry["product"]].free)
    ]
    return _result("I14", "Every stream that stayed showed the database's value at the end.", len(last), bad)


def _sold_out(
    history: History, allotments: dict[int, int], changes: dict[int, Sequence[tuple[float, int]]], lease_s: float
) -> Checked:
    """Check each sold-out answer against the units that were free of claims and leases.

    Free of claims follows from the order events. A lease holds units from some moment after its request was sent until
    some moment before it was answered, or, if nobody could decide, longer (`_leases`). So a request on its way may hold
    as many as it asks for: an answer is a violation only if, at every instant of its time, more units were free than
    requests on their way could have leased.
    """
    bad = []
    checked = 0
    for product_id, allotment in allotments.items():
        buys = [buy for buy in history.buys if buy["product"] == product_id]
        refused = [buy for buy in buys if buy.get("code") == "sold_out"]
        checked += len(refused)
        if not refused:
            continue
        free = Steps(allotment, [(at_s, float(delta)) for at_s, delta in changes[product_id]])
        leased = Steps(
            0, [change for begin, end, units in _leases(buys, lease_s) for change in ((begin, units), (end, -units))]
        )
        for buy in refused:
            since_s, until_s = buy["sent_at"] - LOOKBACK_S - CLOCKS_S, buy["answered_at"] + CLOCKS_S
            if free.least(since_s, until_s) - leased.most(since_s, until_s) >= buy["quantity"]:
                bad.append(f"{buy['user']} at {buy['sent_at']:.3f}")
    return _result(
        "I20", "Sold out was said only if, within a second, no unit was free of claims and leases.", checked, bad
    )


def _leases(buys: Sequence[dict[str, Any]], lease_s: float) -> Iterable[tuple[float, float, float]]:
    """Give when each request may have held units: from, to, how many."""
    requests: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for number, buy in enumerate(buys):
        requests[buy["user"], number if buy["key"] is None else buy["key"]].append(buy)
    for tries in requests.values():
        tries.sort(key=lambda buy: float(buy["sent_at"]))
        for buy, following in zip(tries, [*tries[1:], None], strict=True):
            end = buy["answered_at"]
            if buy["status"] in UNDECIDED:
                end += lease_s + RECONCILE_S
                if following is not None:
                    end = min(end, following["sent_at"])
            if buy["status"] in LEASING:
                yield buy["sent_at"], end, float(buy["quantity"])


class Steps:
    """A quantity that changes at instants."""

    def __init__(self, start: float, changes: list[tuple[float, float]]) -> None:
        """Begin at `start`; each change is an instant and what it adds."""
        ordered = sorted(changes)
        self._instants = [at_s for at_s, _ in ordered]
        self._values = list(itertools.accumulate((delta for _, delta in ordered), initial=start))

    def least(self, since_s: float, until_s: float) -> float:
        """Give the smallest value within a time."""
        return min(self._within(since_s, until_s))

    def most(self, since_s: float, until_s: float) -> float:
        """Give the largest value within a time."""
        return max(self._within(since_s, until_s))

    def _within(self, since_s: float, until_s: float) -> list[float]:
        first = bisect.bisect_left(self._instants, since_s)
        last = bisect.bisect_right(self._instants, until_s)
        return self._values[first : last + 1]
