"""How much a statement reads: pages that Postgres touches and rows that its plan looks at, whatever else the machine does."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg

from flashsale.adapters.postgres.queries import load, sql_root

EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF, FORMAT JSON) "


def statements():
    """Every named statement of the code: its text by file and name."""
    paths = sorted([*sql_root().glob("queries/*.sql"), *sql_root().glob("*.sql")])
    return {
        f"{path.stem}.{query.name}": query.text
        for path in paths
        for query in load(str(path.relative_to(sql_root()))).values()
    }


def newest_functions():
    """The text of the newest version of each SQL function, by the name with which statements call it."""
    versions = {}
    for path in (sql_root() / "functions").glob("*.sql"):
        stem, _, version = path.stem.rpartition("_v")
        versions.setdefault(stem, {})[int(version)] = path
    return {(path := of_name[max(of_name)]).stem: path.read_text() for of_name in versions.values()}


def with_functions(text):
    """A statement, and the functions that it calls."""
    return "\n".join([text, *(body for name, body in newest_functions().items() if f"{name}(" in text)])


@dataclass(frozen=True)
class Read:
    """What one execution of a statement read."""

    pages: int = 0
    """Also of the functions that it calls."""
    rows: int = 0
    """Of tables and indexes, by the statement's own plan: found, or thrown away by a filter."""


def rows_looked_at(plan) -> int:
    """Return the rows of all scans of tables and indexes below a node of a plan."""
    rows = sum(map(rows_looked_at, plan.get("Plans", ())))
    if "Relation Name" in plan or "Index Name" in plan:
        thrown_away = sum(count for name, count in plan.items() if name.startswith("Rows Removed by"))
        rows += round((plan["Actual Rows"] + thrown_away) * plan["Actual Loops"])
    return rows


@contextmanager
def counting():
    """Inside the block, note what each statement of this process reads; returns the most by its name.

    Each is explained with its arguments first, twice, in transactions that are rolled back, and then run.
    """
    known = statements()
    most: dict[str, Read] = {}
    fetch = asyncpg.Connection.fetch

    async def noted(connection, query, arguments):
        name = next((name for name, text in known.items() if text in query), None)
        if name is None:
            return
        # What a session calls for the first time reads pages of the catalogue.
        for _ in range(2):
            transaction = connection.transaction()
            await transaction.start()
            try:
                [[plan]] = await fetch(connection, EXPLAIN + query, *arguments)
            finally:
                await transaction.rollback()
        top = json.loads(plan)[0]["Plan"]
        before = most.get(name, Read())
        most[name] = Read(
            pages=max(before.pages, top["Shared Hit Blocks"] + top["Shared Read Blocks"]),
            rows=max(before.rows, rows_looked_at(top)),
        )

    originals = {}
    for method in ("fetch", "fetchrow", "fetchval", "execute"):
        original = originals[method] = getattr(asyncpg.Connection, method)

        async def counted(self, query, *arguments, _original=original, **options):
            await noted(self, query, arguments)
            return await _original(self, query, *arguments, **options)

        setattr(asyncpg.Connection, method, counted)
    try:
        yield most
    finally:
        for method, original in originals.items():
            setattr(asyncpg.Connection, method, original)
