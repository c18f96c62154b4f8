"""The time line of a database, which makes versions rise where a restore takes them back: `sql/queries/timeline.sql`.

A version is the number of changes of a row. A restored database has counted fewer of them than its clients have seen.
So what leaves the database is this number plus the time line's base: the microsecond in which the time line began. No
row changes more than once a microsecond, so a later time line's versions are higher than all of an earlier one's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

QUERIES = load("queries/timeline.sql")


async def adopt_timeline(connection: Connection) -> int:
    """Return the base of the server's time line; a new one begins if this server or its data is another than before."""
    base: int = await connection.fetchval(QUERIES["adopt"].text)
    return base


async def takes_writes(connection: Connection) -> bool:
    """Say whether the server takes writes."""
    return not await connection.fetchval(QUERIES["read_only"].text)
