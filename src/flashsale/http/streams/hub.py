"""The hub: one consumer of the feed per process; any number of streams follow its channels."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.orders import FINAL, OVER, OrderStatus
from flashsale.domain.products import LiveStock
from flashsale.domain.traces import SpanKind
from flashsale.http.schemas import terms_fields
from flashsale.http.streams.channel import SLICE, Channel, Stream, end_soon
from flashsale.http.streams.events import ChangedEvent, ProductEvent
from flashsale.usecases.batching import Batcher
from flashsale.usecases.live_changes import Connected, OrderChanged, ProductChanged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.orders import Order
    from flashsale.usecases.services import Services
    from flashsale.usecases.tracing import OrderTraces

log = structlog.get_logger(__name__)

LOOKUP_MAX = 256
"""Maximum number of watched orders in one read."""

FINAL_EVERY = 15
"""Every how many polls the watched orders are read whose state is final: few of them change, and there may be many."""


class LiveHub:
    """Carries changes from the feed to channels, at most one per `interval_s` and product."""

    def __init__(self, services: Services, traces: OrderTraces | None = None) -> None:
        """Keep the parts; `run` does the work."""
        self._services = services
        self._traces = traces
        self._interval_s = services.settings.live.interval_s
        self._poll_s = services.settings.live.poll_s
        self._stock: dict[int, Channel] = {}
        self._orders: WeakValueDictionary[UUID, Channel] = WeakValueDictionary()
        self._published_at: dict[int, float] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._reading: Batcher[int, None] = Batcher(self._read_stocks, batch_max=10_000, queue_max=100_000)
        self._keepalive_s = services.settings.live.keepalive_s
        self._closing = False

    async def run(self) -> None:
        """Consume the feed, poll and keep streams alive, until cancelled. A failed task is logged and continues."""
        others = [asyncio.create_task(self._poll()), asyncio.create_task(self._keep_alive())]
        try:
            while True:
                try:
                    await self._consume()
                except Exception:
                    log.exception("live.failed")
                    await asyncio.sleep(self._poll_s)
        finally:
            for task in others:
                task.cancel()

    async def _consume(self) -> None:
        async for change in self._services.feed.changes():
            if isinstance(change, LiveStock):
                self._offer(change)
            elif isinstance(change, OrderChanged):
                channel = self._orders.get(change.order_id)
                if channel is not None:
                    self._put_order(channel, change.order_id, change.status, change.version)
                    _put_changes(channel, change.order_id, change.changes)
            elif isinstance(change, ProductChanged):
                if change.product_id in self._stock:
                    self._describe(change.product_id)
            elif isinstance(change, Connected):
                await self._resume()

    async def stock(self, product_id: int) -> Channel:
        """Return a known product's channel with the database's value, or the last known value if Postgres is down."""
        channel = self._stock.get(product_id)
        if channel is None:
            channel = self._stock.setdefault(product_id, Channel())
        try:
            await self._reading.submit(product_id)
        except FlashSaleError as error:
            log.info("live.stale", product_id=product_id, reason=error.detail)
        self._publish(product_id)
        return channel

    def order(self, order_id: UUID) -> Channel:
        """Return an order's channel, which exists while it is in use. Read the order afterwards, to miss no change."""
        channel = self._orders.get(order_id)
        if channel is None:
            channel = self._orders[order_id] = Channel()
        return channel

    async def trace(self, channel: Channel, order_id: UUID) -> None:
        """Let the events of an order's channel be spans of the order's trace, if this process traces."""
        if self._traces is not None and channel.trace is None:
            channel.trace = (await self._traces.of([order_id])).get(order_id)

    def put_order(self, channel: Channel, order: Order) -> None:
        """Publish the state of an order, and how often something else of it changed."""
        self._put_order(channel, order.order_id, order.status, order.version)
        _put_changes(channel, order.order_id, order.changes)

    def _put_order(self, channel: Channel, order_id: UUID, status: OrderStatus, version: int) -> None:
        data: dict[str, object] = {"orderId": str(order_id), "status": status.value, "version": version}
        traced = channel.trace is not None and channel.streams and version > channel.version
        began_ns = time.time_ns() if traced else 0
        channel.put(version, data, final=status in FINAL, over=status in OVER)
        if traced and channel.trace is not None and self._traces is not None:
            facts = {
                "flashsale.order_id": str(order_id),
                "flashsale.status": status.value,
                "flashsale.streams": len(channel.streams),
            }
            self._traces.tracer.note("stream event", SpanKind.PRODUCER, channel.trace, began_ns, facts)

    def join(self, channel: Channel, stream: Stream) -> None:
        """Let a begun stream follow a channel."""
        channel.streams.add(stream)
        stream.flush()
        if self._closing:
            end_soon(stream)

    def close(self) -> None:
        """End every stream, spread over a few seconds, and also every stream that begins later."""
        self._closing = True
        for channel in (*self._stock.values(), *self._orders.values()):
            channel.end()

    def _offer(self, stock: LiveStock) -> None:
        if stock.product_id not in self._stock or stock.product_id in self._timers:
            return
        loop = asyncio.get_running_loop()
        wait_s = self._published_at.get(stock.product_id, 0.0) + self._interval_s - loop.time()
        if wait_s <= 0:
            self._publish(stock.product_id)
        else:
            self._timers[stock.product_id] = loop.call_later(wait_s, self._publish, stock.product_id)

    def _describe(self, product_id: int) -> None:
        """Publish the product of the catalog, if it is another one than before."""
        channel, product = self._stock[product_id], self._services.catalog.find(product_id)
        if product is not None and product.version > channel.details.version:
            channel.put_details(product.version, b"product", ProductEvent(**terms_fields(product)))  # type: ignore[arg-type]

    def _publish(self, product_id: int) -> None:
        """Publish the newest values of the catalog."""
        self._describe(product_id)
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

    async def _resume(self, *, final: bool = True) -> None:
        """Publish every value, because notifications may be lost; without `final`, no order whose state is final.

        The catalog has just read the products.
        """
        known = {product.product_id for product in self._services.catalog.all()} if self._stock else set()
        for product_id, channel in self._stock.items():
            if product_id in known:
                self._publish(product_id)
            else:
                channel.end()
        watched = [order_id for order_id, channel in self._orders.items() if final or not channel.final]
        for start in range(0, len(watched), LOOKUP_MAX):
            asked = watched[start : start + LOOKUP_MAX]
            found = await self._services.order_rows.get_many(asked)
            for order_id in asked:
                watching = self._orders.get(order_id)
                if watching is not None and order_id in found:
                    self.put_order(watching, found[order_id])
                elif watching is not None:
                    watching.end()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._keepalive_s / 4)
            for number, channel in enumerate((*self._stock.values(), *self._orders.values()), start=1):
                channel.keep_alive(self._keepalive_s * 3 / 4)
                if number % SLICE == 0:
                    await asyncio.sleep(0)

    async def _poll(self) -> None:
        for number in count(1):
            await asyncio.sleep(self._poll_s)
            try:
                await self._resume(final=number % FINAL_EVERY == 0)
            except FlashSaleError as error:
                log.info("live.stale", reason=error.detail)
            except Exception:
                log.exception("live.failed")


def _put_changes(channel: Channel, order_id: UUID, changes: int | None) -> None:
    if changes is not None:
        channel.put_details(changes, b"changed", ChangedEvent(order_id=order_id, changes=changes))
