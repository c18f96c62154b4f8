"""The guards of the code, a TOML file for each room, and what each guard is replaced with."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A guard, and what it is replaced with."""

    guard: str
    file: str
    before: str
    after: str
    tests: str
    """What pytest is given with -k."""

    where: str = "tests/integration"
    """Where the tests are."""


def read_mutations() -> list[Mutation]:
    """Return the mutations of every room, in the order of the files."""
    files = sorted(Path(__file__).parent.glob("*.toml"))
    return [Mutation(**guard) for file in files for guard in tomllib.loads(file.read_text())["guard"]]
