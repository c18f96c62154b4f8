"""Latency as pictures: over the time of a run, and its distribution; SVG, a few lines of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.bench.press import Pressed

WIDTH, HEIGHT, GAP = 480, 300, 70
COLOURS = ("#0b62a4", "#c4501b", "#4f8f3a", "#7a4fa0")
BUCKETS = 60
LEAST_MS = 0.1
TICKS = (0.1, 0.2, 0.5)
SHARES = (0.5, 0.9, 0.99, 0.999, 0.9999)


@dataclass(frozen=True, slots=True)
class Plot:
    """What is drawn: runs by what they are of."""

    title: str
    series: dict[str, Sequence[Pressed]]

    def svg(self) -> str:
        """Draw both pictures side by side; the scale of latency is logarithmic, the same in both."""
        most_ms = max(max(run.seconds) for runs in self.series.values() for run in runs) * 1000
        lasted_s = max(run.lasted_s for runs in self.series.values() for run in runs)
        decades = math.log10(max(most_ms, 10 * LEAST_MS) / LEAST_MS)

        def y(latency_ms: float) -> float:
            return GAP + HEIGHT * (1 - math.log10(max(latency_ms, LEAST_MS) / LEAST_MS) / decades)

        over_time = [_text(GAP, GAP - 14, "latency over time, ms: p50 (thin) and p99 of each slice, all runs")]
        distribution = [_text(0, GAP - 14, "latency by share of answers, ms: all runs together")]
        for panel, left in ((over_time, GAP), (distribution, 0)):
            for tick in _ticks(most_ms):
                panel += [
                    _line([(left, y(tick)), (left + WIDTH, y(tick))], "#ddd"),
                    _text(left - 6, y(tick) + 4, f"{tick:g}", "end"),
                ]
        below = GAP + HEIGHT + 18
        step_s = max(1, round(lasted_s / 8))
        over_time += [
            _text(GAP + WIDTH * second / lasted_s, below, f"{second} s", "middle")
            for second in range(0, math.floor(lasted_s) + 1, step_s)
        ]
        distribution += [_text(_x_of(share), below, f"{100 * share:g} %", "middle") for share in SHARES]
        for (label, runs), colour, row in zip(self.series.items(), COLOURS, range(len(COLOURS)), strict=False):
            for run in runs:
                slices = _slices(run, lasted_s)
                for share, width in ((0.5, 0.7), (0.99, 1.6)):
                    points = [(GAP + WIDTH * place / BUCKETS, y(_share(part, share) * 1000)) for place, part in slices]
                    over_time.append(_line(points, colour, width))
            ordered = sorted(seconds for run in runs for seconds in run.seconds)
            steps = [1 - 10 ** (-SPAN * step / 200) for step in range(200)]
            distribution.append(
                _line([(_x_of(share), y(_share(ordered, share) * 1000)) for share in steps], colour, 1.6)
            )
            distribution.append(_text(16, GAP + 16 + 18 * row, label, colour=colour))
        size = f'width="{2 * WIDTH + 3 * GAP}" height="{HEIGHT + 2 * GAP}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
            f'<rect width="100%" height="100%" fill="white"/>{_text(GAP, 28, self.title, size=16)}'
            f"<g>{''.join(over_time)}</g>"
            f'<g transform="translate({WIDTH + 2 * GAP})">{"".join(distribution)}</g></svg>\n'
        )


SPAN = -math.log10(1 - SHARES[-1])
"""Nines on the axis of shares."""


def _x_of(share: float) -> float:
    return WIDTH * -math.log10(1 - share) / SPAN


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))]


def _slices(run: Pressed, lasted_s: float) -> list[tuple[int, list[float]]]:
    """Sort the answers into equal slices of time; gives those with any, each in order of latency."""
    slices: list[list[float]] = [[] for _ in range(BUCKETS)]
    for at_s, seconds in zip(run.at_s, run.seconds, strict=True):
        slices[min(int(BUCKETS * at_s / lasted_s), BUCKETS - 1)].append(seconds)
    return [(place, sorted(part)) for place, part in enumerate(slices) if part]


def _ticks(most_ms: float) -> list[float]:
    scales = range(math.ceil(math.log10(most_ms / LEAST_MS)) + 1)
    return [tick * 10**scale for scale in scales for tick in TICKS if tick * 10**scale <= most_ms]


def _line(points: Iterable[tuple[float, float]], colour: str, width: float = 1) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", *, colour: str = "#333", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{text}</text>'
