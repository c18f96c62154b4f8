"""Which plots the report has, and what they show."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from analysis.found import Found, Situation
from analysis.plots import Line, areas, distribution, lines
from analysis.results import BOUNDS_MS
from analysis.tables import rates, steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from analysis.results import Run, Second

TIME = "seconds from the beginning of the crowd"
TIMED = ("journey", "stampede", "abuse")
"""Crowds that are shown over time."""
STAGES = {
    "accepted": "waiting",
    "queued": "waiting",
    "processing": "waiting",
    "awaiting_payment": "waiting",
    "paying": "in payment",
    "processing_payment": "in payment",
    "payment_unknown": "in payment",
}
"""What is shown for the states of orders under way, which the product and the baselines name differently."""

Panels = dict[str, list[Line]]


def pictures(found: Found) -> dict[str, tuple[str, str]]:
    """Return the plots there is something for: by file name what each shows, and the SVG."""
    made: dict[str, tuple[str, str]] = {}

    def add(name: str, title: str, panels: Panels, draw: Callable[[Panels, str], str]) -> None:
        shown = {label: some for label, some in panels.items() if any(one.points for one in some)}
        if shown:
            made[f"{name}.svg"] = (title, draw(shown, title))

    def over_time(y: str, *, log: bool = False) -> Callable[[Panels, str], str]:
        return lambda panels, title: lines(panels, title=title, x=TIME, y=y, log=log)

    def crowds(points: Callable[[Run], list[tuple[float, float | None]]]) -> Panels:
        return {
            crowd: [Line(label=name, points=points(run)) for name, run in typical(found, Situation(crowd=crowd))]
            for crowd in TIMED
        }

    add(
        "latency",
        "p95 of the first answer over time, by the second in which it came",
        crowds(lambda run: [(second.at_s, second.p95_ms or None) for second in run.seconds]),
        over_time("p95 of the first answer, ms", log=True),
    )
    add(
        "throughput",
        "Definite answers to buys per second",
        crowds(lambda run: [(second.at_s, _decided(second)) for second in run.seconds]),
        over_time("definite answers per second"),
    )
    add(
        "distribution",
        "First answer by share of buys, all repetitions together",
        {crowd: _distributions(found, Situation(crowd=crowd)) for crowd in TIMED},
        lambda panels, title: distribution(panels, title=title, y="first answer, ms"),
    )
    add(
        "users",
        "Virtual users of the journey, and requests under way of the open crowds",
        crowds(lambda run: [(sample.at_s, sample.users) for sample in run.samples if sample.at_s >= 0]),
        over_time("users, or requests under way"),
    )
    add(
        "stock",
        "Units that buyers are offered",
        crowds(lambda run: [(sample.at_s, sample.stock) for sample in run.samples if sample.at_s >= 0]),
        over_time("units offered"),
    )
    add(
        "queue",
        "Orders or messages that wait for work",
        crowds(lambda run: [(sample.at_s, sample.queued) for sample in run.samples if sample.at_s >= 0]),
        over_time("orders or messages that wait"),
    )
    add(
        "orders",
        "Orders by state during the stampede",
        {name: _states(run) for name, run in typical(found, Situation(crowd="stampede"))},
        lambda panels, title: areas(panels, title=title, x=TIME, y="orders", columns=2),
    )
    add(
        "ramp",
        "p95 of the first answer by offered rate; a cross where the approach broke in most ramps",
        {"ramp": [_ramp(found, name) for name in found.approaches]},
        lambda panels, title: lines(
            panels,
            title=title,
            x="offered buys per second",
            y="p95 of the first answer, ms",
            log=True,
            ticks=rates(found),
        ),
    )
    return made


def typical(found: Found, situation: Situation) -> list[tuple[str, Run]]:
    """Return one run of each approach: that whose p95 is the middle one of its repetitions."""
    some = []
    for name in found.approaches:
        runs = sorted(found.of(name, situation), key=lambda run: (run.first_answer.p95_ms, run.repetition))
        if runs:
            some.append((name, runs[(len(runs) - 1) // 2]))
    return some


def _decided(second: Second) -> int:
    return second.accepted + second.refused


def _distributions(found: Found, situation: Situation) -> list[Line]:
    some = []
    for name in found.approaches:
        histograms = [run.first_answer.histogram for run in found.of(name, situation) if run.first_answer.count]
        counts = [sum(column) for column in zip(*histograms, strict=True)]
        total = sum(counts)
        up_to = list(itertools.accumulate(counts))[: len(BOUNDS_MS)]
        shown = [(number / total, bound) for number, bound in zip(up_to, BOUNDS_MS, strict=False) if number]
        # Above the bound that no value exceeds there is nothing to see.
        full = next((at for at, (share, _) in enumerate(shown) if share == 1), len(shown))
        some.append(Line(label=name, points=shown[: full + 1]))
    return some


def _states(run: Run) -> list[Line]:
    samples = [sample for sample in run.samples if sample.at_s >= 0]
    counts: dict[str, list[int]] = {stage: [0] * len(samples) for stage in ("waiting", "in payment", "confirmed")}
    for at, sample in enumerate(samples):
        for state, number in sample.orders.items():
            counts.setdefault(STAGES.get(state, state), [0] * len(samples))[at] += number
    times = [sample.at_s for sample in samples]
    return [Line(label=stage, points=list(zip(times, some, strict=True))) for stage, some in counts.items()]


def _ramp(found: Found, name: str) -> Line:
    points, ends = [], []
    for rate in rates(found):
        some = steps(found, name, rate)
        p95_ms = sorted(step.latency.p95_ms for step in some if step.latency.count)
        if p95_ms:
            points.append((float(rate), p95_ms[(len(p95_ms) - 1) // 2]))
            if sum(step.broke for step in some) * 2 > len(some):
                ends.append(points[-1])
    return Line(label=name, points=points, ends=ends)
