"""LISTEN on one connection per process, which is opened again after every loss."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import structlog

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.failures import AWAY, told
from flashsale.adapters.postgres.hearing import Hearing
from flashsale.adapters.postgres.timeline import adopt_timeline, takes_writes
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import LiveStock
from flashsale.domain.users import Revocation
from flashsale.runtime.outages import Outage
from flashsale.usecases.live_changes import Connected, OrderChanged, ProductChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flashsale.usecases.live_changes import Change

log = structlog.get_logger(__name__)

CHANNELS = ("flashsale_stock", "flashsale_orders", "flashsale_products", "flashsale_accounts")

HEARTBEAT_S = 5.0
"""How often to check that the listening connection works, that its server takes writes, and its time line."""

ANSWER_S = 5.0
"""Maximum wait for the answer to this check."""

RECONNECT_S = 0.5

QUEUE_MAX = 10_000
"""Undelivered notifications after which the connection counts as lost and everything is read again."""


class PostgresFeed:
    """Implements `ports.LiveFeed`; one consumer per instance."""

    def __init__(self, database: Database) -> None:
        """Keep the settings of the pool; the listening connection is not part of the pool."""
        self._database = database
        self._connected = False
        self._outage = Outage(log, back="feed.back")

    @property
    def connected(self) -> bool:
        """Whether notifications arrive: one that this process sent to itself did, a few seconds ago."""
        return self._connected

    def _hears(self) -> None:
        self._connected = True
        self._outage.over()

    async def changes(self) -> AsyncIterator[Change]:
        """Yield changes; a `Connected` comes first, after every loss, and after the start of each new time line."""
        while True:
            try:
                async with self._listening() as (connection, heard, first_base):
                    base = first_base
                    yield Connected()
                    loop = asyncio.get_running_loop()
                    look_at = loop.time() + HEARTBEAT_S
                    while True:
                        try:
                            async with asyncio.timeout_at(look_at):
                                notification = await heard.next()
                        except TimeoutError:
                            # A server that is cut off answers nothing at all.
                            async with asyncio.timeout(ANSWER_S):
                                if not await takes_writes(connection):
                                    raise OSError("the server takes no writes any more") from None
                                before, base = base, await adopt_timeline(connection)
                            if base != before:
                                yield Connected()
                            look_at = loop.time() + HEARTBEAT_S
                            continue
                        for change in _parse(*notification, base=base):
                            yield change
            except (*AWAY, asyncpg.PostgresError) as error:
                self._outage.tell("feed.lost", error=type(error).__name__, problem=told(error))
                await asyncio.sleep(RECONNECT_S)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[tuple[asyncpg.Connection[asyncpg.Record], _Heard, int]]:
        """Open a connection, adopt the time line, listen, and watch whether it hears; gives the time line's base."""
        connection = await self._database.connect(suffix="-feed", direct=True)
        heard = _Heard()
        watching: asyncio.Task[None] | None = None
        try:
            connection.add_termination_listener(heard.lose)
            base = await adopt_timeline(connection)
            for channel in CHANNELS:
                await connection.add_listener(channel, heard.receive)
            hearing = Hearing(self._database)
            await hearing.listen(connection)
            # Last: through a pooler, the answer to a further statement could bring the notification along.
            watching = asyncio.create_task(hearing.watch(self._hears))
            watching.add_done_callback(heard.lose_with)
            yield connection, heard, base
        finally:
            self._connected = False
            if watching is not None:
                watching.cancel()
            connection.terminate()


class _Heard:
    """The notifications of a connection that nobody has read yet."""

    def __init__(self) -> None:
        self._notifications: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        self._error: BaseException = OSError("the listening connection was lost")

    def receive(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        if self._notifications.qsize() < QUEUE_MAX:
            self._notifications.put_nowait((channel, str(payload)))
        else:
            self.lose()

    def lose(self, _connection: object = None) -> None:
        """Drop all notifications: the consumer reads everything again."""
        while not self._notifications.empty():
            self._notifications.get_nowait()
        self._notifications.put_nowait(None)

    def lose_with(self, watching: asyncio.Task[None]) -> None:
        """Do the same because the connection does not hear."""
        if not watching.cancelled() and (error := watching.exception()) is not None:
            self._error = error
            self.lose()

    async def next(self) -> tuple[str, str]:
        """Return the channel and payload of the next notification; an error once the connection is lost or deaf."""
        notification = await self._notifications.get()
        if notification is None:
            raise self._error
        return notification


def _parse(channel: str, payload: str, *, base: int) -> list[Change]:
    """Read a payload, whose versions lack the base. A foreign payload (any client may NOTIFY) is ignored."""
    try:
        if channel == "flashsale_products":
            return [ProductChanged(product_id=int(payload))]
        rows = json.loads(payload)
        if channel == "flashsale_accounts":
            user_id, generation = rows
            return [Revocation(user_id=UUID(user_id), generation=int(generation))]
        if channel == "flashsale_stock":
            return [LiveStock(product_id=row[0], free=row[1], version=base + row[2]) for row in rows]
        return [_order_changed(row, base) for row in rows]
    except (ValueError, TypeError, IndexError, KeyError):
        log.warning("feed.foreign_payload", channel=channel)
        return []


def _order_changed(row: list[Any], base: int) -> OrderChanged:
    order_id, status, version, *changes = row
    return OrderChanged(
        order_id=UUID(order_id),
        status=OrderStatus(status),
        version=base + version,
        changes=base + changes[0] if changes else None,
    )
