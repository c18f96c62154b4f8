"""Plots of the last ten minutes, as the points of lines; the macro `plot` of `parts.html` draws them as SVG.

Lines, ticks and texts are elements with classes, so the style sheet colours them, dark or light.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from flashsale.http.recent import KEPT_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.http.recent import Sample

WIDTH, HEIGHT = 600, 140
LEFT, TOP, BOTTOM = 52, 8, 20
"""Room for the numbers of the axes."""

ACCEPTED, REFUSED = "accepted", "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a plot."""

    name: str
    points: str
    """As the attribute of a polyline; empty: there are fewer than two."""
    last: float
    """The newest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What a template draws."""

    title: str
    lines: Sequence[Line]
    most: float
    """The value at the upper end."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM
    """Where the lower axis is."""


def buys_per_second(samples: Sequence[Sample], now_s: float) -> Plot:
    """Plot how many buys were answered per second: accepted, and refused."""
    values: dict[str, list[tuple[float, float]]] = {ACCEPTED: [], REFUSED: []}
    for before, after in pairwise(samples):
        seconds = after.at_s - before.at_s
        if seconds <= 0:
            continue
        rises = _rises(before.buys, after.buys)
        accepted = rises.pop(ACCEPTED, 0)
        values[ACCEPTED].append((after.at_s, accepted / seconds))
        values[REFUSED].append((after.at_s, sum(rises.values()) / seconds))
    return _plot("Buys answered per second", list(values.items()), now_s)


def stock(samples: Sequence[Sample], names: Mapping[int, str], now_s: float) -> Plot:
    """Plot the free units of products, of which several may have one name."""
    values = [
        (name, [(one.at_s, float(one.stock[product_id])) for one in samples if product_id in one.stock])
        for product_id, name in names.items()
    ]
    return _plot("Free units", values, now_s)


def rates(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the buys per second between the newest two samples, by outcome."""
    if len(samples) < 2:  # noqa: PLR2004 - a rate needs two
        return {}
    before, after = samples[-2:]
    seconds = max(after.at_s - before.at_s, 0.001)
    return {name: rise / seconds for name, rise in _rises(before.buys, after.buys).items()}


def _rises(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return by how much counters rose; a process that starts again begins with 0."""
    return {name: max(0, count - before.get(name, 0)) for name, count in after.items()}


def _plot(title: str, values: Sequence[tuple[str, Sequence[tuple[float, float]]]], now_s: float) -> Plot:
    most = _round_up(max((value for _, line in values for _, value in line), default=0.0))
    lines = [
        Line(name=name, points=_points(line, most, now_s), last=line[-1][1] if line else 0) for name, line in values
    ]
    return Plot(title=title, lines=lines, most=most)


def _points(line: Sequence[tuple[float, float]], most: float, now_s: float) -> str:
    width, height = WIDTH - LEFT, HEIGHT - TOP - BOTTOM
    points = [
        (LEFT + width * (1 - (now_s - at_s) / KEPT_S), TOP + height * (1 - value / most))
        for at_s, value in line
        if now_s - at_s <= KEPT_S
    ]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points) if len(points) > 1 else ""


def _round_up(value: float) -> float:
    """Return the next number of the form 1, 2 or 5 times a power of ten, at least 1."""
    size = 1.0
    while True:
        for factor in (1, 2, 5):
            if value <= factor * size:
                return factor * size
        size *= 10
