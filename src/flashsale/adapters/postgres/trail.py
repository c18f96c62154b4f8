"""The trail of administration: `sql/queries/trail.sql`."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.failures import AWAY, OTHER_SCHEMA, REPEATED
from flashsale.adapters.postgres.queries import load
from flashsale.domain.emails import email_key
from flashsale.domain.errors import Unavailable
from flashsale.domain.trail import CLI, TrailEntry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.trail import Author

QUERIES = load("queries/trail.sql")
REPLICATE = load("queries/replication.sql")["replicate"]


@asynccontextmanager
async def authored(
    database: Database, what: str, author: Author | None
) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
    """Open a transaction whose rows in the trail name an author; None: they name `system`.

    Raises:
        Unavailable: if Postgres is away.
    """
    try:
        async with database.connection() as connection, connection.transaction():
            if author is not None:
                await set_author(connection, author)
            yield connection
            # A change that finds itself made tells what an earlier COMMIT did, which the standby may lack.
            await connection.execute(REPLICATE.text)
    except REPEATED as error:
        raise Unavailable from error
    except (*AWAY, *OTHER_SCHEMA) as error:
        raise database.away(what, error) from error


async def set_author(
    connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[asyncpg.Record], author: Author
) -> None:
    """Name the author of the rows that the transaction writes to the trail."""
    named = {
        "user": author.user_id and str(author.user_id),
        "actor": CLI,
        "origin": author.origin,
        "action": author.action,
        "request": author.request_id,
    }
    await connection.execute(QUERIES["set_author"].text, json.dumps(named))


async def note_action(
    connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record],
    action: str,
    what: str,
    *,
    old: Mapping[str, object] | None,
    new: Mapping[str, object] | None,
) -> None:
    """Write a row of the trail in the transaction of the change."""
    values = [None if one is None else json.dumps(one) for one in (old, new)]
    await connection.execute(QUERIES["note_action"].text, action, what, *values)


class PostgresTrail:
    """Implements `usecases.trail.Trail`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def read(
        self,
        *,
        before: int | None,
        actor: str | None,
        action: str | None,
        of: str | None,
        since: datetime | None,
        until: datetime | None,
        limit: int,
    ) -> Sequence[TrailEntry]:
        """Read the trail, the newest first."""
        rows = await self._database.fetch(
            QUERIES["trail"],
            before,
            actor and (email_key(actor) or actor),
            action,
            of,
            since,
            until,
            limit,
        )
        return [_entry(row) for row in rows]


def _entry(row: asyncpg.Record) -> TrailEntry:
    fields = dict(row)
    for name in ("old", "new"):
        fields[name] = fields[name] and json.loads(fields[name])
    return TrailEntry(**fields)
