"""Connections whose statement was given up: each stays open until its server has answered, or is gone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from flashsale.adapters.postgres.failures import AWAY, PERMANENT
from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine

    from flashsale.adapters.postgres.connection import Connection

QUERIES = load("queries/replication.sql")

OVERDUE_S = 0.5
"""Age at which a statement that was given up counts as one that waits for the standby; most are answered in less."""

LOOKS = 2
"""Looks that must fail one after the other before the server counts as gone: a single one fails under load too."""

LOOK_S = 2.0
"""How often to look whether the server of given up statements still has their sessions."""


class _Kept(NamedTuple):
    """A connection that waits for an answer."""

    connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    since_s: float
    reads: bool
    """Whether the statement writes nothing."""


class Unanswered:
    """What a pool waits for although nobody else does: a cancelled COMMIT may be durable on one machine only."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        away: Callable[[str, Exception], object],
        *,
        pooled: bool,
    ) -> None:
        """Take how to look at the server: how to connect to it, and whom to tell that it is away.

        `pooled`: a pooler stands before the server. It shows other process ids, and drops the sessions of a server
        that is gone by itself.
        """
        self._connect = connect
        self._away = away
        self._pooled = pooled
        self._kept: dict[asyncio.Task[None], _Kept] = {}
        """By the task that waits for the answer."""
        self._looking: asyncio.Task[None] | None = None

    @property
    def overdue(self) -> int:
        """Return the number of answers to writes that are overdue; reads wait for no standby."""
        if not self._kept:
            return 0
        before = asyncio.get_running_loop().time() - OVERDUE_S
        return sum(one.since_s < before and not one.reads for one in self._kept.values())

    def keep(
        self,
        connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record],
        release: Coroutine[None, None, None],
        *,
        reads: bool,
    ) -> None:
        """Keep a connection while `release`, which ends with the server's answer, runs. `reads`: it writes nothing."""
        task = asyncio.create_task(release)
        self._kept[task] = _Kept(connection, asyncio.get_running_loop().time(), reads)
        task.add_done_callback(self._kept.pop)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._drop_what_nobody_answers())

    async def close(self) -> None:
        """Wait for the answers; the pool has closed or terminated its connections."""
        await asyncio.gather(*self._kept, return_exceptions=True)
        if self._looking is not None:
            self._looking.cancel()

    async def _drop_what_nobody_answers(self) -> None:
        """Drop the connections to a server that is gone: no packet may ever say so."""
        failed = 0
        while self._kept:
            await asyncio.wait(self._kept, timeout=LOOK_S)
            try:
                waiting = {connection.get_server_pid(): task for task, (connection, *_) in self._kept.items()}
            except asyncpg.InterfaceError:
                # One was answered just now.
                continue
            try:
                alive = await self._alive(waiting)
                failed = 0
            except asyncpg.TooManyConnectionsError:
                # The server is there and full.
                failed = 0
                continue
            except (*AWAY, *PERMANENT, asyncpg.PostgresError) as error:
                self._away("look", error)
                failed += 1
                if failed < LOOKS:
                    continue
                alive = set()
            for pid, task in waiting.items():
                if pid not in alive and task in self._kept:
                    # One that is answered by now belongs to nobody, and refuses this.
                    with contextlib.suppress(asyncpg.InterfaceError):
                        self._kept[task].connection.terminate()

    async def _alive(self, waiting: Collection[int]) -> set[int]:
        """Return those of some process ids that are sessions of the server."""
        looking = await self._connect()
        try:
            rows = await looking.fetch(QUERIES["backends"].text, [*waiting])
        finally:
            looking.terminate()
        return {*waiting} if self._pooled else {row["pid"] for row in rows}
