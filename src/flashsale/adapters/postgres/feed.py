"""LISTEN on one connection per process, connected again after every loss."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import structlog

from flashsale.adapters.postgres.database import AWAY, Database
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import LiveStock
from flashsale.usecases.ports import Connected, OrderChanged, ProductChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = structlog.get_logger(__name__)

CHANNELS = ("flashsale_stock", "flashsale_orders", "flashsale_products")

HEARTBEAT_S = 5.0
"""How often an idle listening connection is asked whether it still lives."""

RECONNECT_S = 0.5

QUEUE_MAX = 10_000
"""Undelivered notifications after which the connection counts as lost and everything is read again."""

Change = Connected | OrderChanged | ProductChanged | LiveStock


class PostgresFeed:
    """Implements `ports.LiveFeed`; one consumer per instance."""

    def __init__(self, database: Database) -> None:
        """Connect like the pool, beside it."""
        self._database = database
        self._connected = False

    @property
    def connected(self) -> bool:
        """Whether the listening connection stands."""
        return self._connected

    async def changes(self) -> AsyncIterator[Change]:
        """Give changes; a `Connected` comes first and after every loss."""
        while True:
            try:
                connection = await asyncpg.connect(**self._database.connect_arguments(suffix="-feed"))
            except (*AWAY, asyncpg.PostgresError) as error:
                log.warning("feed.away", error=type(error).__name__)
                await asyncio.sleep(RECONNECT_S)
                continue
            heard = _Heard()
            try:
                connection.add_termination_listener(heard.lose)
                for channel in CHANNELS:
                    await connection.add_listener(channel, heard.receive)
                self._connected = True
                yield Connected()
                while True:
                    try:
                        async with asyncio.timeout(HEARTBEAT_S):
                            notification = await heard.next()
                    except TimeoutError:
                        await connection.execute("SELECT 1")
                        continue
                    for change in _parse(*notification):
                        yield change
            except AWAY as error:
                log.warning("feed.lost", error=type(error).__name__)
            finally:
                self._connected = False
                connection.terminate()


class _Heard:
    """What a connection was told and nobody has read yet."""

    def __init__(self) -> None:
        self._notifications: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()

    def receive(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        if self._notifications.qsize() < QUEUE_MAX:
            self._notifications.put_nowait((channel, str(payload)))
        else:
            self.lose()

    def lose(self, _connection: object = None) -> None:
        """Forget everything: it will be read again."""
        while not self._notifications.empty():
            self._notifications.get_nowait()
        self._notifications.put_nowait(None)

    async def next(self) -> tuple[str, str]:
        """Give channel and payload; OSError once the connection is lost."""
        notification = await self._notifications.get()
        if notification is None:
            raise OSError("the listening connection was lost")
        return notification


def _parse(channel: str, payload: str) -> list[Change]:
    """Read a payload; one that is not ours (anybody may NOTIFY) is ignored."""
    try:
        if channel == "flashsale_products":
            return [ProductChanged(product_id=int(payload))]
        rows = json.loads(payload)
        if channel == "flashsale_stock":
            return [LiveStock(product_id=row[0], free=row[1], version=row[2]) for row in rows]
        return [OrderChanged(order_id=UUID(row[0]), status=OrderStatus(row[1]), version=row[2]) for row in rows]
    except (ValueError, TypeError, IndexError, KeyError):
        log.warning("feed.foreign_payload", channel=channel)
        return []
