"""Figures of repeated runs: median and range, and how a table of them is written."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

NONE = "-"
"""What a table has where there is no figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure of several runs."""

    median: float
    least: float
    most: float

    def text(self, unit: Callable[[float], str]) -> str:
        """Write median and range; the median only where all runs are written alike."""
        ends = [unit(self.least), unit(self.most)]
        return (
            unit(self.median) if len({unit(self.median), *ends}) == 1 else f"{unit(self.median)} ({' to '.join(ends)})"
        )

    def is_apart_from(self, other: Spread) -> bool:
        """Return whether the ranges do not meet."""
        return self.most < other.least or other.most < self.least


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return median and range of the values that there are; None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(median=statistics.median(known), least=min(known), most=max(known))


def written(found: Spread | None, unit: Callable[[float], str]) -> str:
    """Write a figure, or that there is none."""
    return NONE if found is None else found.text(unit)


def count(value: float) -> str:
    """Write a number of things; medians may be halves."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def decimal(value: float) -> str:
    """Write a figure with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"  # noqa: PLR2004


def share(value: float) -> str:
    """Write a share in percent: nearly everything is not everything, and nearly nothing is not nothing."""
    percent = value * 100
    if 0 < percent < 0.1:  # noqa: PLR2004
        return "< 0.1 %"
    if 99.9 < percent < 100:  # noqa: PLR2004
        return "> 99.9 %"
    return f"{percent:.3g} %" if percent in {0, 100} else f"{percent:.1f} %"


def milliseconds(value: float) -> str:
    """Write a duration."""
    if value >= 1000:  # noqa: PLR2004
        return f"{value / 1000:,.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"  # noqa: PLR2004


def mebibytes(value: float) -> str:
    """Write a number of bytes."""
    return f"{value / 2**20:,.0f} MiB" if value >= 10 * 2**20 else f"{value / 2**20:.1f} MiB"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def listed(parts: Sequence[str]) -> str:
    """Write parts one after the other, `and` before the last."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
