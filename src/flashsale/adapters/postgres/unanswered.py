"""Connections whose statement was given up: each stays open until its server has answered, or is gone."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from flashsale.adapters.postgres.failures import AWAY, PERMANENT
from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping

    from flashsale.adapters.postgres.connection import Connection

QUERIES = load("queries/replication.sql")

OVERDUE_S = 0.5
"""Age at which a write that was given up counts as one that waits for the standby; most are answered in less."""

FIRST_LOOK_S = 0.2
"""How soon to look what a statement waits for: before it counts."""

LOOKS = 2
"""Looks that must fail one after the other before the server counts as gone: a single one fails under load too."""

LOOK_S = 2.0
"""How often to look whether the server of given up statements still has their sessions."""


@dataclass(slots=True)
class _Kept:
    """A connection that waits for an answer."""

    connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    since_s: float
    reads: bool
    """Whether the statement writes nothing."""
    looked: bool = False
    """Whether there was a look at the server since."""
    for_standby: bool = True
    """Whether the server said at the last look that it waits for the standby. True until the server says otherwise."""


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
    def wait_for_standby(self) -> int:
        """Return the number of writes that wait for the standby, not counting those that wait for a lock."""
        if not self._kept:
            return 0
        before = asyncio.get_running_loop().time() - OVERDUE_S
        return sum(one.since_s < before and one.for_standby and not one.reads for one in self._kept.values())

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
            self._looking = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Wait for the answers; the pool has closed or terminated its connections."""
        await asyncio.gather(*self._kept, return_exceptions=True)
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        """Ask the server for what they wait, each soon after it was given up, and all of them regularly."""
        failed, next_s = 0, 0.0
        while self._kept:
            await asyncio.wait(self._kept, timeout=min(FIRST_LOOK_S, LOOK_S))
            now_s = asyncio.get_running_loop().time()
            if now_s < next_s and (failed or all(one.looked for one in self._kept.values())):
                continue
            next_s = now_s + LOOK_S
            try:
                waiting = {one.connection.get_server_pid(): task for task, one in self._kept.items()}
            except asyncpg.InterfaceError:
                # One was answered just now.
                continue
            for task in waiting.values():
                self._kept[task].looked = True
            try:
                self._take(waiting, await self._find(waiting))
                failed = 0
            except asyncpg.TooManyConnectionsError:
                # The server is there and full.
                failed = 0
            except (*AWAY, *PERMANENT, asyncpg.PostgresError) as error:
                self._away("look", error)
                failed += 1
                if failed >= LOOKS:
                    self._take(waiting, {})

    async def _find(self, waiting: Collection[int]) -> dict[int, bool]:
        """Return those process ids that are sessions of the server, each with whether it waits for the standby."""
        looking = await self._connect()
        try:
            if self._pooled:
                return dict.fromkeys(waiting, await looking.fetchval(QUERIES["any_waits"].text))
            rows = await looking.fetch(QUERIES["backends"].text, [*waiting])
            return {row["pid"]: row["waits"] for row in rows}
        finally:
            looking.terminate()

    def _take(self, waiting: Mapping[int, asyncio.Task[None]], found: Mapping[int, bool]) -> None:
        """Note for what they wait, and drop the connections to sessions that are gone: no packet may ever say so."""
        for pid, task in waiting.items():
            one = self._kept.get(task)
            if one is None:
                continue
            if pid in found:
                one.for_standby = found[pid]
            else:
                # One that is answered by now belongs to nobody, and refuses this.
                with contextlib.suppress(asyncpg.InterfaceError):
                    one.connection.terminate()
