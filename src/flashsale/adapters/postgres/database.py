"""One connection pool per process, and what its failures mean."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from flashsale.adapters.postgres.connection import Connection, NotReplicated
from flashsale.adapters.postgres.failures import (
    AWAY,
    OTHER_SCHEMA,
    PERMANENT,
    READ_ONLY,
    REPEATED,
    SLOW,
    Misconfigured,
    caused_by,
    reason_of,
    told,
)
from flashsale.adapters.postgres.hosts import Hosts
from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.sessions import (
    BY_INDEX,
    ENCODING,
    FREELY,
    problem_of,
    read_session,
    session_settings,
)
from flashsale.adapters.postgres.timeline import adopt_timeline, takes_writes
from flashsale.adapters.postgres.unanswered import Unanswered
from flashsale.domain.errors import OtherSchema, Unavailable
from flashsale.runtime.outages import Outage
from flashsale.settings.server_urls import hosts_of
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from flashsale.adapters.postgres.queries import Query
    from flashsale.settings.groups import PostgresSettings

QUERIES = load("queries/replication.sql")

log = structlog.get_logger(__name__)

GRACE_S = 1.0
"""How long a statement may take beyond its time-out, by which the server ends it; then its caller gives it up."""

ANSWERED_WITHIN_S = 86_400.0
"""Maximum wait for the answer to a statement that was given up, while its server has the session."""

SAY_S = 1.0
"""Minimum time between two log lines about a slow server, which under load every request would write."""

SERIALIZATION_TRIES = 4
"""How often a statement is sent that loses a deadlock or a serialization conflict (40P01, 40001)."""

CACHED_STATEMENTS = 100
"""Prepared statements that a connection keeps; asyncpg's default."""


class Database:
    """A pool that tolerates a missing server: it connects on demand, and again after every loss."""

    def __init__(
        self,
        settings: PostgresSettings,
        *,
        name: str,
        init: Callable[[asyncpg.Connection[asyncpg.Record]], Coroutine[Any, Any, None]] | None = None,
        by_index: bool = True,
    ) -> None:
        """Keep the settings.

        The server shows `name` for these connections. `init` prepares each new connection. With `by_index`, plans use
        an index wherever there is one, however small the tables are; without it, Postgres chooses.
        """
        self._settings = settings
        self._name = name
        self._session_settings = session_settings(settings, BY_INDEX if by_index else FREELY)
        self._pooled = bool(settings.direct_url.get_secret_value())
        self._init = init
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._hosts = Hosts(settings.url.get_secret_value())
        self._direct_hosts = Hosts(settings.direct_url.get_secret_value()) if self._pooled else self._hosts
        self._unanswered = Unanswered(partial(self.connect, suffix="-look"), self.away, pooled=self._pooled)
        self._said_s: dict[str, float] = {}
        self._outage = Outage(log, back="postgres.back")

    def connect_arguments(self, *, suffix: str = "", direct: bool = False) -> dict[str, Any]:
        """Return the arguments of `asyncpg.connect` for a connection like the pool's; `suffix` is added to its name.

        `direct`: to the server itself, because what the connection does belongs to a session. Through a pooler each
        transaction may run in another session: no prepared statement has a name, and the settings are the role's.
        """
        settings = self._settings
        pooled = self._pooled and not direct
        return {
            "dsn": (settings.direct_url if self._pooled and direct else settings.url).get_secret_value(),
            "statement_cache_size": 0 if pooled else CACHED_STATEMENTS,
            "timeout": settings.acquire_timeout_s,
            "command_timeout": settings.statement_timeout_s + GRACE_S,
            # Of several hosts, connect to the one that takes writes; fail if all are standbys or read-only.
            "target_session_attrs": "read-write",
            "server_settings": {"application_name": self._name + suffix, **({} if pooled else self._session_settings)},
        }

    async def connect(self, *, suffix: str, direct: bool = False) -> Connection:
        """Open a connection like the pool's, outside the pool, to the host that takes writes."""
        arguments = self.connect_arguments(suffix=suffix, direct=direct)
        del arguments["dsn"]
        hosts = self._direct_hosts if direct else self._hosts
        return await hosts.connect(Connection, within_s=arguments.pop("timeout"), **arguments)

    async def check(self) -> None:
        """Connect once, as a process does before it begins.

        Raises:
            Misconfigured: if no waiting can help: a wrong password, an unknown database, TLS that one side does not
                want, an encoding other than UTF-8. A server that is away is no error here.
        """
        await self._check(direct=False)
        if self._pooled:
            await self._check(direct=True)

    async def _check(self, *, direct: bool) -> None:
        setting = "FLASHSALE_POSTGRES__DIRECT_URL" if direct else "FLASHSALE_POSTGRES__URL"
        try:
            connection = await self.connect(suffix="-check", direct=direct)
            try:
                found = await read_session(connection, self._session_settings)
                encoding = connection.get_settings().server_encoding
            finally:
                connection.terminate()
        except (*AWAY, *PERMANENT, asyncpg.PostgresError) as error:
            reason = reason_of(error)
            if reason is not None:
                raise Misconfigured(reason, setting=setting) from error
            self.away("check", error)
            return
        if encoding != ENCODING:
            reason = f"The database's encoding is {encoding}: create it with ENCODING 'UTF8'."
            raise Misconfigured(reason, setting=setting)
        if (problem := problem_of(found, self._session_settings, pooled=self._pooled and not direct)) is not None:
            raise Misconfigured(problem, setting=setting)

    async def open(self) -> None:
        """Create the pool. A server that is down is no error here."""
        try:
            self._pool = await self._make_pool(self._settings.pool_min)
        except (*AWAY, *PERMANENT, asyncpg.PostgresError) as error:
            self.away("open", error)
            self._pool = await self._make_pool(0)

    async def _make_pool(self, min_size: int) -> asyncpg.Pool[asyncpg.Record]:
        return await asyncpg.create_pool(
            min_size=min_size,
            max_size=self._settings.pool_max,
            connection_class=Connection,
            connect=self._connect_for_pool,
            init=self._prepare,
            reset=_keep_session,
        )

    async def _connect_for_pool(self, *_: object, **__: object) -> Connection:
        return await self.connect(suffix="")

    async def _prepare(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        try:
            # First of all: values that are read under an old time line would carry versions that look older.
            await adopt_timeline(connection)
            if self._init is not None:
                await self._init(connection)
        except BaseException:
            # asyncpg closes it next, which would wait for an answer.
            connection.terminate()
            raise

    async def close(self) -> None:
        """Close every connection, those in use after at most 5 s."""
        if self._pool is not None:
            try:
                async with asyncio.timeout(5):
                    await self._pool.close()
            except TimeoutError:
                self._pool.terminate()
            await self._unanswered.close()
            self._pool = None

    @property
    def size(self) -> tuple[int, int]:
        """Return the number of open connections, and the number of idle ones."""
        return (0, 0) if self._pool is None else (self._pool.get_size(), self._pool.get_idle_size())

    @property
    def waits_for_standby(self) -> bool:
        """Whether writes that were given up wait for the synchronous standby on half of the pool."""
        waiting = self._unanswered.wait_for_standby
        return waiting > 0 and 2 * waiting >= self._settings.pool_max

    @asynccontextmanager
    async def connection(
        self, *, reads: bool = False
    ) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        """Lend a connection; `reads`: for statements that write nothing.

        Raises:
            Unavailable: if no connection is free in time, or a write would wait like those before it.
            NotReplicated: if the standby may lack what was committed in the block.
            Failures inside the block are raised as they are.
        """
        if not reads and self.waits_for_standby:
            raise Unavailable("The database does not confirm changes; send the same request again.")
        pool, connection = await self._acquire()
        try:
            _take(connection, "take_cut_short")
            yield connection
            self._outage.over()
        except BaseException as error:
            if caused_by(error, READ_ONLY):
                await self._leave_server(connection)
            raise
        else:
            if _take(connection, "take_cut_short"):
                raise NotReplicated
        finally:
            if _take(connection, "take_unanswered"):
                # The caller goes on without the answer.
                self._unanswered.keep(connection, self._release(pool, connection, ANSWERED_WITHIN_S), reads=reads)
            else:
                await self._release(pool, connection)

    async def _acquire(
        self,
    ) -> tuple[asyncpg.Pool[asyncpg.Record], asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        if self._pool is None:
            raise Unavailable("The database is not open.")
        try:
            return self._pool, await self._pool.acquire(timeout=self._settings.acquire_timeout_s)
        except TimeoutError as error:
            if self._pool.get_size() == self._pool.get_max_size() and not self._pool.get_idle_size():
                self._say("postgres.busy", "connect", error)
                raise Unavailable from error
            raise self.away("connect", error) from error
        except (*AWAY, *PERMANENT, asyncpg.PostgresError) as error:
            raise self.away("connect", error) from error

    async def _release(
        self,
        pool: asyncpg.Pool[asyncpg.Record],
        connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record],
        timeout_s: float | None = None,
    ) -> None:
        try:
            await pool.release(connection, timeout=timeout_s)
        except (*AWAY, asyncpg.PostgresError) as error:
            # The connection was lost while the pool reset it. The caller's work is done, and the pool dropped it.
            log.info("postgres.lost_at_release", error=type(error).__name__)

    async def _leave_server(self, connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]) -> None:
        """Drop every connection to a server that stopped accepting writes; new connections look for another."""
        connection.terminate()
        if self._pool is not None:
            await self._pool.expire_connections()

    async def fetch(self, query: Query, *arguments: object) -> list[asyncpg.Record]:
        """Run one statement as a transaction and return its rows; lost conflicts are tried again.

        Raises:
            Unavailable: if the server is away or too slow. A statement that changes data may have been executed.
            PoisonBatch: if the server will refuse the statement however often it is sent.
        """
        for left in reversed(range(SERIALIZATION_TRIES)):
            try:
                async with self.connection(reads=query.reads) as connection:
                    return await connection.fetch(query.text, *arguments)
            except REPEATED as error:
                if not left:
                    raise Unavailable from error
                log.info("postgres.conflict_retried", query=query.name)
            except (*AWAY, *OTHER_SCHEMA) as error:
                raise self.away(query.name, error) from error
            except asyncpg.PostgresError as error:
                raise PoisonBatch(str(error), unknown_user=False) from error
        raise AssertionError

    async def fetch_row(self, query: Query, *arguments: object) -> asyncpg.Record | None:
        """Run one statement like `fetch` and return its first row."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    async def replicate(self) -> None:
        """Wait until the synchronous standby has all that this process has read.

        For answers that tell what an earlier transaction did: its COMMIT may be on the primary only.

        Raises:
            Unavailable: if the standby does not confirm it in time.
        """
        await self.fetch(QUERIES["replicate"])

    def away(self, what: str, error: Exception) -> Unavailable:
        """Log why the server does not serve (down, too slow, read-only, refuses the process) and return the error."""
        if isinstance(error, OTHER_SCHEMA):
            self._say("postgres.other_schema", what, error)
            return OtherSchema()
        if isinstance(error, SLOW):
            self._say("postgres.slow", what, error)
            return Unavailable("The database took too long; send the same request again.")
        if isinstance(error, NotReplicated):
            self._say("postgres.not_replicated", what, error)
            return Unavailable("The database did not confirm the change; send the same request again.")
        if isinstance(error, READ_ONLY):
            self._say("postgres.read_only", what, error)
            return Unavailable("The database takes no writes just now; send the same request again.")
        kind = type(error).__name__
        if (reason := reason_of(error)) is not None:
            self._outage.tell("postgres.refused", error=kind, reason=reason)
        else:
            servers = hosts_of(self._settings.url.get_secret_value())
            self._outage.tell("postgres.away", error=kind, problem=told(error), servers=servers)
        return Unavailable("The database is away; send the same request again.")

    def _say(self, event: str, what: str, error: Exception) -> None:
        """Write a log line, at most one of each kind in SAY_S seconds."""
        now_s = time.monotonic()
        if now_s - self._said_s.get(event, float("-inf")) >= SAY_S:
            self._said_s[event] = now_s
            log.warning(event, doing=what, error=type(error).__name__)

    async def takes_writes(self) -> bool:
        """Say whether the server takes writes; if it takes none, drop every connection to it.

        Adopts the server's time line too: a pooler keeps this process' connections when the server is another one.

        Raises:
            Unavailable: if no server that takes writes can be reached.
        """
        try:
            async with self.connection(reads=True) as connection:
                writes = await takes_writes(connection)
                if writes:
                    # The check of the schema says what the schema lacks.
                    with suppress(*OTHER_SCHEMA):
                        await adopt_timeline(connection)
                else:
                    await self._leave_server(connection)
        except (*AWAY, *OTHER_SCHEMA) as error:
            raise self.away("look", error) from error
        return writes


def _take(connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], what: str) -> bool:
    """Ask `Connection` something through the pool's proxy, which is empty once the connection is dropped."""
    take: Callable[[], bool] | None = getattr(connection, what, None)
    return take is not None and take()


async def _keep_session(_: object) -> None:
    """Reset a connection without a round trip: no statement of this program leaves state in the session.

    asyncpg rolls an open transaction back before this.
    """
