"""The tables that an analysis prints: what each approach did in each crowd, where it broke, and what went wrong."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table

from analysis.results import CROWDS, DISTURBANCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from analysis.results import Results, Run

VERDICT = {
    "oversold": "oversold",
    "lost": "lost",
    "leaked": "leaked",
    "stuck": "stuck",
    "charged_twice": "charged twice",
    "charged_wrongly": "charged wrongly",
    "refused_falsely": "falsely sold out",
}
"""The verdict's columns, by field."""


def tables(results: Results) -> Iterator[Table]:
    """Return the tables, medians of the repetitions."""
    yield _crowds(results)
    yield _ramp(results)
    yield _verdicts(results)


def faults_of(runs: Sequence[Run]) -> list[str]:
    """Say what went wrong in runs, one line for each run that is not right."""
    return [
        f"{run.name}: "
        + ", ".join(f"{name} {value}" for field, name in VERDICT.items() if (value := getattr(run.verdict, field)))
        for run in runs
        if not run.verdict.right
    ]


def _grouped(results: Results) -> Iterator[tuple[str, str, str, list[Run]]]:
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in results.runs:
        groups[run.crowd, run.disturbance, run.approach].append(run)
    for crowd in CROWDS:
        for disturbance in DISTURBANCES:
            for approach in results.head.approaches:
                if runs := groups.get((crowd, disturbance, approach)):
                    yield crowd, disturbance, approach, runs


def _crowds(results: Results) -> Table:
    price = results.head.price_per_cpu_hour
    table = Table(
        "crowd",
        "disturbed",
        "approach",
        "runs",
        "first answer p50",
        "p95",
        "p99",
        "to confirmed p95",
        "confirmed",
        "given up",
        "cpu s",
        "MiB",
        *(["cost of 1,000"] if price is not None else []),
        "generator late",
    )
    for crowd, disturbance, approach, runs in _grouped(results):

        def middle(value: Callable[[Run], float], runs: list[Run] = runs) -> float:
            return median(value(run) for run in runs)

        cells = [
            f"{middle(lambda run: run.first_answer.p50_ms):,.0f} ms",
            f"{middle(lambda run: run.first_answer.p95_ms):,.0f} ms",
            f"{middle(lambda run: run.first_answer.p99_ms):,.0f} ms",
            f"{middle(lambda run: run.to_confirmed.p95_ms) / 1000:.1f} s",
            f"{middle(lambda run: run.confirmed):,.0f}",
            f"{middle(lambda run: run.given_up):,.0f}",
            f"{middle(lambda run: run.resources.cost_cpu_s):.1f}",
            f"{middle(lambda run: sum(run.resources.pss_bytes.values())) / 2**20:,.0f}",
        ]
        if price is not None:
            costs = [cost for run in runs if (cost := run.cost(price)) is not None]
            cells.append(f"{median(costs):.4f}" if costs else "-")
        late = sum(run.generator.late for run in runs)
        table.add_row(crowd, disturbance, approach, f"{len(runs)}", *cells, f"{late} of {len(runs)}" if late else "")
    return table


def _ramp(results: Results) -> Table:
    table = Table(
        "approach", "arrivals a second", "sent a second", "answered a second", "p50", "p99", "bad", "generator late", ""
    )
    for crowd, _, approach, runs in _grouped(results):
        if crowd != "ramp":
            continue
        by_rate = defaultdict(list)
        for run in runs:
            for step in run.steps:
                by_rate[step.rate].append(step)
        for rate, steps in by_rate.items():
            table.add_row(
                approach,
                f"{rate:,}",
                f"{median(step.sent_per_s for step in steps):,.0f}",
                f"{median(step.answered_per_s for step in steps):,.0f}",
                f"{median(step.latency.p50_ms for step in steps):,.0f} ms",
                f"{median(step.latency.p99_ms for step in steps):,.0f} ms",
                f"{median(step.bad_share for step in steps):.1%}",
                f"{median(step.generator_late_share for step in steps):.0%}",
                "broke" if sum(step.broke for step in steps) * 2 > len(steps) else "",
            )
    return table


def _verdicts(results: Results) -> Table:
    table = Table("approach", "runs", *VERDICT.values(), title="All runs together")
    for approach in results.head.approaches:
        runs = [run for run in results.runs if run.approach == approach]
        if runs:
            sums = (sum(getattr(run.verdict, field) for run in runs) for field in VERDICT)
            table.add_row(approach, f"{len(runs)}", *(f"{value:,}" for value in sums))
    return table
