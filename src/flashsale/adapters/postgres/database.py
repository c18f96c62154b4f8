"""One connection pool per process, and what its failures mean."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

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
)
from flashsale.adapters.postgres.timeline import adopt_timeline, takes_writes
from flashsale.domain.errors import OtherSchema, Unavailable
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from flashsale.adapters.postgres.queries import Query
    from flashsale.settings.groups import PostgresSettings

log = structlog.get_logger(__name__)

SAY_S = 1.0
"""Minimum time between two log lines about an outage, which under load every request would write."""

SERIALIZATION_TRIES = 4
"""How often a statement is sent that loses a deadlock or a serialization conflict (40P01, 40001)."""

ENCODING = "UTF8"
"""The only encoding of a database that holds every name; others fail at the first one outside ASCII, or earlier."""

BY_INDEX = {"enable_seqscan": "off", "enable_mergejoin": "off"}
"""Postgres keeps a statement's plan until the tables' statistics are updated, about a minute later. A plan
of the first second of a sale, for tables of a few rows, would read whole tables while they grow to 100,000 rows."""


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
        self._plans = BY_INDEX if by_index else {}
        self._init = init
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._said_s: dict[str, float] = {}

    def connect_arguments(self, *, suffix: str = "") -> dict[str, Any]:
        """Return the arguments of `asyncpg.connect` for a connection like the pool's; `suffix` is added to its name."""
        settings = self._settings
        return {
            "dsn": settings.url.get_secret_value(),
            "timeout": settings.acquire_timeout_s,
            "command_timeout": settings.statement_timeout_s + 1,
            # Of several hosts, connect to the one that takes writes; fail if all are standbys or read-only.
            "target_session_attrs": "read-write",
            "server_settings": {
                "application_name": self._name + suffix,
                "statement_timeout": str(round(settings.statement_timeout_s * 1000)),
                "lock_timeout": str(round(settings.lock_timeout_s * 1000)),
                "idle_in_transaction_session_timeout": str(round(settings.idle_transaction_timeout_s * 1000)),
                "jit": "off",
                **self._plans,
                # Statements take a lock, then read: a snapshot from before the lock would miss the rival's changes.
                "default_transaction_isolation": "read committed",
            },
        }

    async def check(self) -> None:
        """Connect once, as a process does before it begins.

        Raises:
            Misconfigured: if no waiting can help: a wrong password, an unknown database, TLS that one side does not
                want, an encoding other than UTF-8. A server that is away is no error here.
        """
        try:
            connection = await asyncpg.connect(**self.connect_arguments(suffix="-check"))
        except (*AWAY, *PERMANENT, asyncpg.PostgresError) as error:
            reason = reason_of(error)
            if reason is not None:
                raise Misconfigured(reason) from error
            return
        encoding = connection.get_settings().server_encoding
        connection.terminate()
        if encoding != ENCODING:
            raise Misconfigured(f"The database's encoding is {encoding}: create it with ENCODING 'UTF8'.")

    async def open(self) -> None:
        """Create the pool. A server that is down is no error here."""
        try:
            self._pool = await self._make_pool(self._settings.pool_min)
        except (*AWAY, *PERMANENT, asyncpg.PostgresError) as error:
            self.away("open", error)
            self._pool = await self._make_pool(0)

    async def _make_pool(self, min_size: int) -> asyncpg.Pool[asyncpg.Record]:
        return await asyncpg.create_pool(
            **self.connect_arguments(),
            min_size=min_size,
            max_size=self._settings.pool_max,
            init=self._prepare,
            reset=_keep_session,
        )

    async def _prepare(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        # First of all: values that are read under an old time line would carry versions that look older.
        await adopt_timeline(connection)
        if self._init is not None:
            await self._init(connection)

    async def close(self) -> None:
        """Close every connection, those in use after at most 5 s."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()
            self._pool = None

    @property
    def size(self) -> tuple[int, int]:
        """Return the number of open connections, and the number of idle ones."""
        return (0, 0) if self._pool is None else (self._pool.get_size(), self._pool.get_idle_size())

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        """Lend a connection.

        Raises:
            Unavailable: if no connection is free in time. Failures inside the block are raised as they are.
        """
        if self._pool is None:
            raise Unavailable("The database is not open.")
        try:
            connection = await self._pool.acquire(timeout=self._settings.acquire_timeout_s)
        except TimeoutError as error:
            if self._pool.get_size() == self._pool.get_max_size() and not self._pool.get_idle_size():
                self._say("postgres.busy", "connect", error)
                raise Unavailable from error
            raise self.away("connect", error) from error
        except (*AWAY, *PERMANENT, asyncpg.PostgresError) as error:
            raise self.away("connect", error) from error
        try:
            yield connection
        except BaseException as error:
            if caused_by(error, READ_ONLY):
                await self._leave_server(connection)
            raise
        finally:
            try:
                await self._pool.release(connection)
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
                async with self.connection() as connection:
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

    def away(self, what: str, error: Exception) -> Unavailable:
        """Log why the server does not serve (down, too slow, read-only, refuses the process) and return the error."""
        if isinstance(error, OTHER_SCHEMA):
            self._say("postgres.other_schema", what, error)
            return OtherSchema()
        if isinstance(error, SLOW):
            self._say("postgres.slow", what, error)
            return Unavailable("The database took too long; send the same request again.")
        if isinstance(error, READ_ONLY):
            self._say("postgres.read_only", what, error)
            return Unavailable("The database takes no writes just now; send the same request again.")
        if (reason := reason_of(error)) is not None:
            self._say("postgres.refused", what, error, reason)
        else:
            self._say("postgres.away", what, error)
        return Unavailable("The database is away; send the same request again.")

    def _say(self, event: str, what: str, error: Exception, reason: str | None = None) -> None:
        """Write a log line, at most one of each kind in SAY_S seconds."""
        now_s = time.monotonic()
        if now_s - self._said_s.get(event, float("-inf")) >= SAY_S:
            self._said_s[event] = now_s
            why = {} if reason is None else {"reason": reason}
            log.warning(event, doing=what, error=type(error).__name__, **why)

    async def takes_writes(self) -> bool:
        """Say whether the server takes writes; if it takes none, drop every connection to it.

        Raises:
            Unavailable: if no server that takes writes can be reached.
        """
        try:
            async with self.connection() as connection:
                writes = await takes_writes(connection)
                if not writes:
                    await self._leave_server(connection)
        except (*AWAY, *OTHER_SCHEMA) as error:
            raise self.away("look", error) from error
        return writes


async def _keep_session(_: object) -> None:
    """Reset a connection without a round trip: no statement of this program leaves state in the session.

    asyncpg rolls an open transaction back before this.
    """
