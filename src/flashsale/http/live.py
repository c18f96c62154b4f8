"""The live hub: one consumer of the feed per process; any number of streams hang on its channels."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.orders import FINAL, OrderStatus
from flashsale.domain.products import LiveStock
from flashsale.usecases.batching import Batcher
from flashsale.usecases.ports import Connected, OrderChanged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.orders import Order
    from flashsale.http.services import ApiServices

log = structlog.get_logger(__name__)

LOOKUP_MAX = 256
"""Watched orders that are read in one go."""

_encode = msgspec.json.Encoder().encode


class Channel:
    """The newest value of one product or order, encoded once for all its streams.

    A stream holds a channel, the version it sent last and an event of its own, nothing else: a slow one skips what it
    missed. One event per stream, not one future for all: taking a callback off a future walks all the others, and
    20,000 streams that time out for a keep-alive then cost seconds of the loop.
    """

    __slots__ = ("final", "listeners", "message", "streams", "version")

    def __init__(self) -> None:
        """Start without a value."""
        self.version = 0
        self.message = b""
        self.final = False
        self.streams = 0
        self.listeners: set[asyncio.Event] = set()
        """Set whenever there may be something to send."""

    def put(self, version: int, data: dict[str, object], *, final: bool = False) -> None:
        """Publish a value, unless one as new is there; wakes every stream."""
        if version <= self.version:
            return
        self.version = version
        self.message = b"id: %d\ndata: %s\n\n" % (version, _encode(data))
        self.final = final
        self.wake()

    def wake(self) -> None:
        """Let every stream look again."""
        for listener in self.listeners:
            listener.set()


class LiveHub:
    """Carries changes from the feed to channels, at most one per `interval_s` and product."""

    def __init__(self, services: ApiServices) -> None:
        """Wire it; `run` does the work."""
        self._services = services
        self._interval_s = services.settings.live.interval_s
        self._poll_s = services.settings.live.poll_s
        self._stock: dict[int, Channel] = {}
        self._orders: dict[UUID, Channel] = {}
        self._published_at: dict[int, float] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._reading: Batcher[int, None] = Batcher(self._read_stocks, batch_max=10_000, queue_max=100_000)
        self.closing = asyncio.Event()
        """Set when the process stops: streams end, spread over a few seconds."""

    async def run(self) -> None:
        """Consume the feed and poll beside it, for ever: whatever fails is logged and begun again."""
        polling = asyncio.create_task(self._poll())
        try:
            while True:
                try:
                    await self._consume()
                except Exception:
                    log.exception("live.failed")
                    await asyncio.sleep(self._poll_s)
        finally:
            polling.cancel()

    async def _consume(self) -> None:
        async for change in self._services.feed.changes():
            if isinstance(change, LiveStock):
                self._offer(change)
            elif isinstance(change, OrderChanged):
                channel = self._orders.get(change.order_id)
                if channel is not None:
                    _put_order(channel, change.order_id, change.status, change.version)
            elif isinstance(change, Connected):
                await self._resume()

    async def stock(self, product_id: int) -> Channel:
        """Give a known product's channel, as new as the database; or as known here if the database is away."""
        channel = self._stock.get(product_id)
        if channel is None:
            channel = self._stock.setdefault(product_id, Channel())
        try:
            await self._reading.submit(product_id)
        except FlashSaleError as error:
            log.info("live.stale", product_id=product_id, reason=error.detail)
        self._publish(product_id)
        return channel

    def watch(self, order_id: UUID) -> Channel:
        """Give an order's channel and count a stream on it; read the order after this, so that nothing is missed."""
        channel = self._orders.get(order_id)
        if channel is None:
            channel = self._orders.setdefault(order_id, Channel())
        channel.streams += 1
        return channel

    def unwatch(self, order_id: UUID) -> None:
        """Count a stream less; a channel without streams goes."""
        channel = self._orders[order_id]
        channel.streams -= 1
        if not channel.streams:
            del self._orders[order_id]

    @staticmethod
    def put_order(channel: Channel, order: Order) -> None:
        """Publish an order that was read."""
        _put_order(channel, order.order_id, order.status, order.version)

    def close(self) -> None:
        """Tell every stream to end."""
        self.closing.set()
        for channel in (*self._stock.values(), *self._orders.values()):
            channel.wake()

    def _offer(self, stock: LiveStock) -> None:
        if stock.product_id not in self._stock or stock.product_id in self._timers:
            return
        loop = asyncio.get_running_loop()
        wait_s = self._published_at.get(stock.product_id, 0.0) + self._interval_s - loop.time()
        if wait_s <= 0:
            self._publish(stock.product_id)
        else:
            self._timers[stock.product_id] = loop.call_later(wait_s, self._publish, stock.product_id)

    def _publish(self, product_id: int) -> None:
        """Publish what the catalog knows by now: the latest value wins."""
        self._timers.pop(product_id, None)
        self._published_at[product_id] = asyncio.get_running_loop().time()
        stock = self._services.catalog.stock(product_id)
        self._stock[product_id].put(
            stock.version, {"productId": product_id, "stock": stock.free, "version": stock.version}
        )

    async def _read_stocks(self, asked: list[int]) -> Sequence[None]:
        for stock in await self._services.products.stocks():
            self._services.catalog.take_stock(stock)
        return [None] * len(asked)

    async def _resume(self) -> None:
        """Publish everything anew: notifications may have been lost. The catalog has read the products already."""
        for product_id in self._stock:
            self._publish(product_id)
        watched = list(self._orders)
        for start in range(0, len(watched), LOOKUP_MAX):
            found = await self._services.order_rows.get_many(watched[start : start + LOOKUP_MAX])
            for order_id, order in found.items():
                channel = self._orders.get(order_id)
                if channel is not None:
                    self.put_order(channel, order)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._resume()
            except FlashSaleError as error:
                log.info("live.stale", reason=error.detail)
            except Exception:
                log.exception("live.failed")


def _put_order(channel: Channel, order_id: UUID, status: OrderStatus, version: int) -> None:
    data: dict[str, object] = {"orderId": str(order_id), "status": status.value, "version": version}
    channel.put(version, data, final=status in FINAL)
