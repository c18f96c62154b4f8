"""The findings of the audit, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SAMPLE_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The result of one invariant."""

    invariant: str
    promise: str
    checked: int
    """Number of checked rows."""
    violations: int
    sample: tuple[str, ...] = ()
    """Ids of some violations."""
    skipped: str | None = None
    """Why it was not checked."""
    note: str | None = None
    """A remark for the reader."""


def found(invariant: str, promise: str, checked: int, bad: Iterable[object], *, note: str | None = None) -> Checked:
    """Create a finding from the ids that violate an invariant."""
    ids = [str(one) for one in bad]
    return Checked(
        invariant=invariant,
        promise=promise,
        checked=checked,
        violations=len(ids),
        sample=tuple(ids[:SAMPLE_MAX]),
        note=note,
    )


def skipped(invariant: str, promise: str, reason: str) -> Checked:
    """Create a finding for an invariant that was not checked."""
    return Checked(invariant=invariant, promise=promise, checked=0, violations=0, skipped=reason)


def _totals(results: Sequence[Checked]) -> tuple[int, int, int]:
    """Count the invariants that hold, that are violated, and that were not checked."""
    violated = sum(bool(result.violations) for result in results)
    left_out = sum(result.skipped is not None for result in results)
    return len(results) - violated - left_out, violated, left_out


def format_findings(results: Sequence[Checked]) -> str:
    """Return one line per check, and a last one with the verdict."""
    lines = []
    for result in results:
        if result.skipped is not None:
            verdict, count = "not checked", result.skipped
        elif result.violations:
            verdict, count = "VIOLATED", f"{result.violations:,} of {result.checked:,}"
        else:
            verdict, count = "OK", f"{result.checked:,} checked"
        line = f"{result.invariant:<4} {verdict:<12} {count:<16} {result.promise}"
        if result.note:
            line += f" ({result.note})"
        if result.sample:
            line += f" [{', '.join(result.sample)}]"
        lines.append(line)
    held, violated, left_out = _totals(results)
    lines.append(f"audit: {held} hold, {violated} violated, {left_out} not checked")
    return "\n".join(lines)


def as_json(results: Sequence[Checked]) -> str:
    """Return one JSON document: the verdict, the totals, and every check with all of its fields."""
    held, violated, left_out = _totals(results)
    document = {
        "holds": not violated,
        "hold": held,
        "violated": violated,
        "notChecked": left_out,
        "invariants": [asdict(result) for result in results],
    }
    return json.dumps(document, indent=2)
