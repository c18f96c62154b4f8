"""The time line of a database, by which versions rise even after a restore: `sql/queries/timeline.sql`.

A version is the number of changes of a row. A restored database may have counted fewer changes than its clients have
seen. Clients therefore get this number plus the base of the time line: the microsecond in which the time line began.
No row changes more than once a microsecond, so every version of a later time line is higher than all earlier versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

QUERIES = load("queries/timeline.sql")


async def adopt_timeline(connection: Connection) -> int:
    """Return the base of the server's time line; a new time line begins if the server or its data changed."""
    base: int = await connection.fetchval(QUERIES["adopt"].text)
    return base


async def takes_writes(connection: Connection) -> bool:
    """Say whether the server takes writes."""
    return not await connection.fetchval(QUERIES["read_only"].text)
