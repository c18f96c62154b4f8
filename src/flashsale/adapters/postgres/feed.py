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
            queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue(QUEUE_MAX)
            lost = asyncio.Event()

            def receive(
                _connection: object,
                _pid: int,
                channel: str,
                payload: object,
                queue: asyncio.Queue[tuple[str, str]] = queue,
                lost: asyncio.Event = lost,
            ) -> None:
                try:
                    queue.put_nowait((channel, str(payload)))
                except asyncio.QueueFull:
                    lost.set()

            try:
                connection.add_termination_listener(lambda _connection, lost=lost: lost.set())
                for channel in CHANNELS:
                    await connection.add_listener(channel, receive)
                self._connected = True
                yield Connected()
                while not lost.is_set():
                    try:
                        channel, payload = await asyncio.wait_for(_next(queue, lost), HEARTBEAT_S)
                    except TimeoutError:
                        await connection.execute("SELECT 1")
                        continue
                    for change in _parse(channel, payload):
                        yield change
            except AWAY as error:
                log.warning("feed.lost", error=type(error).__name__)
            finally:
                self._connected = False
                connection.terminate()


async def _next(queue: asyncio.Queue[tuple[str, str]], lost: asyncio.Event) -> tuple[str, str]:
    if not queue.empty():
        return queue.get_nowait()
    getting = asyncio.ensure_future(queue.get())
    losing = asyncio.ensure_future(lost.wait())
    try:
        await asyncio.wait({getting, losing}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        raise OSError("the listening connection was lost")
    finally:
        getting.cancel()
        losing.cancel()


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
