"""Loads named statements from `sql/`: `-- name: x`, description lines, the statement up to its semicolon."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_NAME = re.compile(r"^-- name: ([A-Za-z0-9_]+)$")

_MAY_WRITE = re.compile(r"\b(INSERT|UPDATE|DELETE)\b|_v\d+\(|\bpg_logical_emit_message\(")
"""What a statement holds that may write. A function of ours that only reads counts too, which does no harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A statement with `$1 ...` parameters, and its description."""

    name: str
    description: str
    text: str
    reads: bool
    """Whether the statement only reads, so that its COMMIT waits for nothing."""


@cache
def sql_root() -> Path:
    """Return the folder of the SQL files: inside the installed package, else at the top of the checkout."""
    packaged = Path(__file__).parents[2] / "sql_files"
    return packaged if packaged.is_dir() else Path(__file__).parents[4] / "sql"


@cache
def load(file: str) -> dict[str, Query]:
    """Read the statements of a file below `sql/`, by name, in the file's order.

    Raises:
        ValueError: if a statement has no name, no description or no semicolon at its end, or a name comes twice.
    """
    queries: dict[str, Query] = {}
    for block in re.split(r"(?m)^(?=-- name: )", (sql_root() / file).read_text())[1:]:
        first, *rest = block.rstrip().splitlines()
        match = _NAME.match(first)
        described = next((i for i, line in enumerate(rest) if not line.startswith("--")), len(rest))
        text = "\n".join(rest[described:]).strip()
        if match is None or not described or not text.endswith(";") or match[1] in queries:
            raise ValueError(f"{file}: malformed or repeated statement at {first!r}")
        description = " ".join(line.removeprefix("--").strip() for line in rest[:described])
        reads = _MAY_WRITE.search(text) is None
        queries[match[1]] = Query(name=match[1], description=description, text=text.removesuffix(";"), reads=reads)
    return queries
