"""What an analysis found, by approach and situation; and what is missing in it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from analysis.figures import spread
from analysis.results import CROWDS, DISTURBANCES, Results, Run, run_name
from analysis.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from analysis.figures import Spread

OURS = "flashsale"
VERDICTS = {
    "oversold": "oversold",
    "lost": "lost",
    "leaked": "leaked",
    "stuck": "stuck",
    "charged_twice": "charged twice",
    "charged_wrongly": "charged wrongly",
    "refused_falsely": "falsely sold out",
}
"""The verdict's columns, by field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A crowd, and what happens in mid-sale."""

    crowd: str
    disturbance: str = "none"


class Found:
    """The runs of an analysis by approach and situation."""

    def __init__(self, results: Results) -> None:
        """Sort the runs."""
        self.head = results.head
        self.runs = results.runs
        self._groups: dict[tuple[str, Situation], list[Run]] = defaultdict(list)
        for run in sorted(results.runs, key=lambda run: run.repetition):
            self._groups[run.approach, Situation(crowd=run.crowd, disturbance=run.disturbance)].append(run)
        known = {run.approach for run in results.runs}
        order = dict.fromkeys((*results.head.approaches, *sorted(known)))
        self.approaches = tuple(name for name in order if name in known)
        """Those that ran, in the reader's order."""
        self.others = tuple(name for name in self.approaches if name != OURS)
        there = {situation for _, situation in self._groups}
        wanted = [Situation(crowd=crowd, disturbance=fault) for fault in DISTURBANCES for crowd in CROWDS]
        self.situations = tuple(one for one in wanted if one in there)
        self.disturbed = tuple(one for one in self.situations if one.disturbance != "none")

    def of(self, approach: str, situation: Situation) -> Sequence[Run]:
        """Return the runs of an approach in a situation, by repetition."""
        return self._groups.get((approach, situation), [])

    def spread(self, approach: str, situation: Situation, figure: Callable[[Run], float | None]) -> Spread | None:
        """Return a figure over the repetitions."""
        return spread(figure(run) for run in self.of(approach, situation))

    def has(self, crowd: str) -> bool:
        """Return whether a crowd was sent, undisturbed."""
        return Situation(crowd=crowd) in self.situations

    def missing(self) -> list[str]:
        """Return planned runs that are not there, by name; without a plan, runs that only some approaches have."""
        there = {run.name for run in self.runs}
        planned = self.head.planned or [
            run_name(approach, one.crowd, one.disturbance, repetition)
            for one in self.situations
            for approach in self.head.approaches
            for repetition in range(
                1, 1 + max(run.repetition for name in self.approaches for run in self.of(name, one))
            )
        ]
        return [name for name in planned if name not in there]


def faults(runs: Iterable[Run]) -> dict[str, int]:
    """Return what went wrong in all of these runs together, by the verdict's field; only what did."""
    total = {field.name: 0 for field in fields(Verdict)}
    for run in runs:
        for name in total:
            total[name] += getattr(run.verdict, name)
    return {name: number for name, number in total.items() if number}


def wrong(run: Run) -> int:
    """Return how much went wrong in a run."""
    return sum(faults([run]).values())
