"""How much a statement reads: the pages that Postgres touches for it, which no other work on the machine changes."""

from __future__ import annotations

import json
from contextlib import contextmanager

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


@contextmanager
def counting_pages():
    """Inside the block, note what each statement of this process reads; returns the most pages by its name.

    Each is explained with its arguments first, in a transaction that is rolled back, and then run.
    """
    known = statements()
    pages: dict[str, int] = {}
    fetch = asyncpg.Connection.fetch

    async def noted(connection, query, arguments):
        name = next((name for name, text in known.items() if text in query), None)
        if name is None:
            return
        transaction = connection.transaction()
        await transaction.start()
        try:
            [[plan]] = await fetch(connection, EXPLAIN + query, *arguments)
        finally:
            await transaction.rollback()
        top = json.loads(plan)[0]["Plan"]
        read = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
        pages[name] = max(read, pages.get(name, 0))

    with_pages = {}
    for method in ("fetch", "fetchrow", "fetchval", "execute"):
        original = with_pages[method] = getattr(asyncpg.Connection, method)

        async def counted(self, query, *arguments, _original=original, **options):
            await noted(self, query, arguments)
            return await _original(self, query, *arguments, **options)

        setattr(asyncpg.Connection, method, counted)
    try:
        yield pages
    finally:
        for method, original in with_pages.items():
            setattr(asyncpg.Connection, method, original)
