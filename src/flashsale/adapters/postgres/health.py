"""Whether Postgres can take orders: it answers, has our schema, takes writes and has room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from flashsale.adapters.postgres import queries
from flashsale.adapters.postgres.cells import wrong_cell
from flashsale.adapters.postgres.schema import difference, expected, read_schema
from flashsale.domain.errors import Unavailable
from flashsale.usecases.ports import PoisonBatch
from flashsale.usecases.readiness import Problem

if TYPE_CHECKING:
    from flashsale.adapters.postgres.database import Database

QUERIES = queries.load("queries/health.sql")

SORT_MEMORY = "64kB"
"""The minimum of `work_mem`: the sort that tests for room does not fit and goes to the disk."""


class PostgresHealth:
    """Implements `readiness.Truth`."""

    def __init__(self, database: Database, *, cell: int = 0) -> None:
        """Check the process' own pool, and that its database is the cell's."""
        self._database = database
        self._cell = cell

    async def problem(self) -> tuple[bool, Problem | None]:
        """Say whether Postgres answers, and why it cannot take orders, if it cannot."""
        try:
            return True, await self._why_not()
        except Unavailable as error:
            what = f"{error.detail.partition(';')[0].removesuffix('.')}."
            return False, Problem(what=what, todo="See the log for the reason; is FLASHSALE_POSTGRES__URL right?")
        except PoisonBatch as error:
            return True, Problem(what=f"Postgres refuses: {error}", todo="See the log.")

    async def _why_not(self) -> Problem | None:
        if not await self._database.takes_writes():
            return Problem(
                what="The database is read-only, or a standby.",
                todo="Name the server that takes writes in FLASHSALE_POSTGRES__URL, or let this one take them.",
            )
        if (wrong := difference(expected(), await read_schema(self._database.fetch))) is not None:
            return _as_problem(wrong)
        # The process looked when it started, if the database was there.
        if (wrong := await wrong_cell(self._database.fetch, self._cell)) is not None:
            return _as_problem(wrong)
        if self._database.waits_for_standby:
            return Problem(
                what="Changes wait for the synchronous standby.",
                todo="Start the standby, or take it out of the primary's synchronous_standby_names.",
            )
        if await self._is_full():
            return Problem(what="The database's disk is full.", todo="Make room on it; nothing else helps.")
        return None

    async def _is_full(self) -> bool:
        """Test for room: let a sort spill half a megabyte to Postgres' disk, without a row or WAL."""
        try:
            async with self._database.connection(reads=True) as connection, connection.transaction(readonly=True):
                await connection.execute(f"SET LOCAL work_mem = '{SORT_MEMORY}'")
                await connection.fetch(QUERIES["need_room"].text)
        except asyncpg.DiskFullError:
            return True
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._database.away("need_room", error) from error
        return False


def _as_problem(wrong: str) -> Problem:
    what, _, todo = wrong.partition(": ")
    return Problem(what=f"{what}.", todo=todo)
