"""The clients' history, compared with the data."""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING

from flashsale.usecases import sightings
from flashsale.usecases.findings import Checked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.domain.products import LiveStock
    from flashsale.usecases.history import History, OrderRow

RECONCILE_S = 3.0
"""How long after its deadline a lease may still hold its units: the reconciliation runs every second."""

LOOKBACK_S = 1.0
"""A sold-out answer may be as old as this (docs/explanation/architecture.md)."""

OLD_SHARE_MAX = 0.05
"""Maximum share of a product's sold-out answers that are true only for an instant before their request. A process
caches an answer for 0.25 s, and a notification of free units ends that within milliseconds. A larger share means that
notifications are lost."""

OLD_MIN = 20
"""This many old answers are always allowed, because a share of few answers says nothing."""

COMMIT_S = 0.25
"""How long after its event a released unit counts as claimed: the event is written before its COMMIT, whose time is not
recorded. If units are released and claimed every 20 ms, the events alone would never show a moment without a unit.
"""

CLOCKS_S = 0.05
"""How much the clients' clock and the database's may differ on one machine, by the time between their reads."""


def check_history(
    history: History,
    orders: Sequence[OrderRow],
    allotments: Mapping[int, tuple[int, int]],
    changes: Mapping[int, Sequence[tuple[float, int]]],
    stocks: Mapping[int, LiveStock],
    events: Mapping[tuple[str, int], str],
    *,
    overdue_s: float,
    lease_s: float,
) -> list[Checked]:
    """Check the invariants that only the clients' view can show.

    `allotments`: per product, the first and the highest allotment. `changes`: per product and by time, how many units
    came free (negative: were taken). `stocks`: the live stock now. `events`: status by order and version. An order that
    is not final may be overdue by `overdue_s` seconds. A lease lives `lease_s` seconds.
    """
    by_id = {order.order_id: order for order in orders}
    at_first = {product_id: first for product_id, (first, _) in allotments.items()}
    free_since = {
        product_id: Steps(first, [(at_s, float(delta)) for at_s, delta in changes[product_id]]).least_to_the_end()
        for product_id, first in at_first.items()
    }
    asked_for = sightings.asked_for(history, by_id)
    return [
        sightings.accepted(history, by_id, overdue_s),
        sightings.whole(history),
        *([] if asked_for is None else [asked_for]),
        sightings.states(history, events),
        sightings.versions(history),
        sightings.stocks_agree(history, stocks, {product_id: most for product_id, (_, most) in allotments.items()}),
        sightings.replays(history),
        sightings.last_stocks(history, stocks),
        sightings.unsold(history, free_since, lease_s=lease_s + RECONCILE_S),
        _sold_out(history, at_first, changes),
    ]


def _result(invariant: str, promise: str, checked: int, bad: list[str]) -> Checked:
    return Checked(invariant=invariant, promise=promise, checked=checked, violations=len(bad), sample=tuple(bad[:5]))


def _sold_out(
    history: History, allotments: Mapping[int, int], changes: Mapping[int, Sequence[tuple[float, int]]]
) -> Checked:
    """Check each sold-out answer against the units that no order held.

    Leases of other requests do not justify an answer, because a lease on the last unit may come back. An answer is
    wrong if enough units were free at every instant from LOOKBACK_S before its request until the answer. An answer is
    old if too few units were free only before its request; too many old answers are wrong too.
    """
    bad: list[str] = []
    checked = old = 0
    for product_id, allotment in allotments.items():
        refused = [buy for buy in history.buys if buy["product"] == product_id and buy.get("code") == "sold_out"]
        free = Steps(allotment, [(at_s + COMMIT_S * (delta > 0), float(delta)) for at_s, delta in changes[product_id]])
        aged: list[str] = []
        for buy in refused:
            since_s, until_s = buy["sent_at"] - CLOCKS_S, buy["answered_at"] + CLOCKS_S
            if free.least(since_s, until_s) >= buy["quantity"]:
                name = f"{buy['user']} at {buy['sent_at']:.3f}"
                (bad if free.least(since_s - LOOKBACK_S, until_s) >= buy["quantity"] else aged).append(name)
        if len(aged) > max(OLD_MIN, len(refused) * OLD_SHARE_MAX):
            bad += aged
        checked += len(refused)
        old += len(aged)
    promise = "Sold out was said only if too few units were free of orders, within a second"
    return _result("I20", f"{promise} ({old:,} answers were right only before they were asked for).", checked, bad)


class Steps:
    """A quantity that changes at instants."""

    def __init__(self, start: float, changes: list[tuple[float, float]]) -> None:
        """Begin at `start`; each change is an instant and the difference at that instant."""
        ordered = sorted(changes)
        self._instants = [at_s for at_s, _ in ordered]
        self._values = list(itertools.accumulate((delta for _, delta in ordered), initial=start))

    def least(self, since_s: float, until_s: float) -> float:
        """Return the smallest value between two instants."""
        return min(self._within(since_s, until_s))

    def least_to_the_end(self) -> list[tuple[float, float]]:
        """Return, for each instant of a change, the smallest value from that instant to the end."""
        least, rising = self._values[-1], []
        for at_s, value in zip(reversed([float("-inf"), *self._instants]), reversed(self._values), strict=True):
            least = min(least, value)
            rising.append((at_s, least))
        return rising[::-1]

    def _within(self, since_s: float, until_s: float) -> list[float]:
        first = bisect.bisect_left(self._instants, since_s)
        last = bisect.bisect_right(self._instants, until_s)
        return self._values[first : last + 1]
