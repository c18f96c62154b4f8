"""What was measured, and how it is shown: a table and a JSON file."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

if TYPE_CHECKING:
    from tests.bench.bench import Bench


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A bound of the median, or of its ratio to the control's."""

    of: Literal["value", "ratio"]
    sign: Literal["<=", ">="]
    bound: float

    def met(self, figure: Figure) -> bool:
        """Say whether a figure meets it."""
        got = figure.value if self.of == "value" else figure.ratio
        assert got is not None, f"{figure.name} has no control"
        return got >= self.bound if self.sign == ">=" else got <= self.bound

    def text(self, unit: str) -> str:
        """Return it as the table shows it."""
        bound = f"{self.bound:.2f} of control" if self.of == "ratio" else f"{self.bound:,g} {unit}".replace(" /s", "/s")
        return f"{self.sign} {bound}"


def at_least(bound: float, *, of: Literal["value", "ratio"] = "value") -> Aim:
    """Aim at no less than `bound`."""
    return Aim(of=of, sign=">=", bound=bound)


def at_most(bound: float, *, of: Literal["value", "ratio"] = "value") -> Aim:
    """Aim at no more than `bound`."""
    return Aim(of=of, sign="<=", bound=bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value, its control, and what it is to reach."""

    name: str
    unit: str
    runs: list[float]
    control: str = ""
    control_runs: list[float] = field(default_factory=list)
    aims: tuple[Aim, ...] = ()

    @property
    def value(self) -> float:
        """The median of the runs."""
        return statistics.median(self.runs)

    @property
    def ratio(self) -> float | None:
        """The median over the control's median."""
        return self.value / statistics.median(self.control_runs) if self.control_runs else None

    @property
    def met(self) -> bool | None:
        """Whether all aims are met; None without one."""
        return all(aim.met(self) for aim in self.aims) if self.aims else None


def as_table(figures: list[Figure]) -> Table:
    """Make the table: medians, with the least and the most of the runs."""
    table = Table("figure", "control", title="speed: median (least to most)", title_justify="left")
    for name in ("value", "of the control", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("aim")
    table.add_column("met")
    for figure in figures:
        table.add_row(
            figure.name,
            figure.control,
            _spread(figure.runs, figure.unit),
            _spread(figure.control_runs, figure.unit) if figure.control_runs else "",
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            ", ".join(aim.text(figure.unit) for aim in figure.aims),
            {True: "yes", False: "NO", None: ""}[figure.met],
        )
    return table


def _spread(runs: list[float], unit: str) -> str:
    digits = 0 if min(runs) >= 100 else 1
    median = f"{statistics.median(runs):,.{digits}f} {unit}".replace(" /s", "/s")
    return median if len(runs) == 1 else f"{median} ({min(runs):,.{digits}f} to {max(runs):,.{digits}f})"


def as_json(bench: Bench) -> dict[str, Any]:
    """Return everything that was measured, and on what."""
    return {
        "machine": machine(),
        "client": "tests/bench/press.py",
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit,
                "value": figure.value,
                "runs": figure.runs,
                "control": figure.control,
                "controlRuns": figure.control_runs,
                "ratio": figure.ratio,
                "aims": [aim.text(figure.unit) for aim in figure.aims],
                "met": figure.met,
            }
            for figure in bench.figures
        ],
        "audits": bench.audits,
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processors, memory, versions."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processors": len(os.sched_getaffinity(0)),
        "model": models[0].partition(": ")[2] if models else platform.machine(),
        "memoryGiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
