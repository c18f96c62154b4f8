"""The live hub: one consumer of the feed per process; any number of streams hang on its channels."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from itertools import islice
from typing import TYPE_CHECKING, cast
from weakref import WeakValueDictionary

import msgspec
import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.orders import FINAL, OrderStatus
from flashsale.domain.products import LiveStock
from flashsale.usecases.batching import Batcher
from flashsale.usecases.ports import Connected, OrderChanged

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence
    from uuid import UUID

    from litestar.types import Send
    from litestar.types.asgi_types import HTTPResponseBodyEvent

    from flashsale.domain.orders import Order
    from flashsale.http.services import ApiServices

log = structlog.get_logger(__name__)

LOOKUP_MAX = 256
"""Watched orders that are read in one go."""

SLICE = 256
"""Streams that are sent a value before the process does other work."""

PAUSE_MAX_S = 0.5
"""Longest pause between two rounds."""

CLOSE_SPREAD_S = 3.0
"""Streams of a stopping process end within this time, so that their clients do not all come back at once."""

ENDED = sys.maxsize
"""The version of a stream that gets nothing more."""

_encode = msgspec.json.Encoder().encode


def _body(body: bytes, *, more: bool = True) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": body, "more_body": more}


COMMENT = _body(b": keep-alive\n\n")
END = _body(b"", more=False)


class Stream:
    """One client: the version that it was sent last, and how to send.

    Whoever publishes also sends: an ASGI `send` that need not wait is complete after its first step, so that no task is
    woken for it. Only a connection that is full gets a task, which waits and then sends what is newest.
    """

    __slots__ = ("_catching_up", "_channel", "_ending", "_send", "_version")

    def __init__(self, channel: Channel, version: int, send: Send) -> None:
        """Belong to a channel, whose `version` the client has."""
        self._channel = channel
        self._version = version
        self._send = send
        self._ending = False
        self._catching_up: asyncio.Task[None] | None = None

    def flush(self) -> None:
        """Send what the client does not have, now or as soon as its connection takes it."""
        while self._catching_up is None and (due := self._due()) is not None:
            version, message = due
            if self._sent_at_once(message):
                self._version = version
            else:
                self._catching_up = asyncio.create_task(self._catch_up())

    def comment(self) -> None:
        """Break the silence; a connection that is full is not silent."""
        if self._catching_up is None and self._version < ENDED:
            self._sent_at_once(COMMENT)

    def end(self) -> None:
        """End after what is newest."""
        self._ending = True
        self.flush()

    def forget(self) -> None:
        """Send nothing more: the client is gone."""
        self._version = ENDED
        if self._catching_up is not None:
            self._catching_up.cancel()

    def _due(self) -> tuple[int, HTTPResponseBodyEvent] | None:
        channel = self._channel
        if channel.version > self._version:
            return channel.version, channel.message
        if (channel.final or self._ending) and self._version < ENDED:
            return ENDED, END
        return None

    def _sent_at_once(self, message: HTTPResponseBodyEvent) -> bool:
        """Send, unless that has to wait. The server waits before it writes, if at all: nothing is sent by halves."""
        sending = cast("Coroutine[None, None, None]", self._send(message))
        try:
            sending.send(None)
        except StopIteration:
            return True
        sending.close()
        return False

    async def _catch_up(self) -> None:
        try:
            while (due := self._due()) is not None:
                version, message = due
                await self._send(message)
                self._version = version
        finally:
            self._catching_up = None


class Channel:
    """The newest value of one product or order, encoded once for all its streams.

    It is sent in rounds of slices; between two slices the process does other work. A value that comes during a round is
    what the rest of the round gets, and another round follows: every stream has its turn, however fast values come.
    Between two rounds of more than one slice lies a pause as long as the first one's slices took of the processor:
    rounds without end leave half of the time to other work, and to clients to read.
    """

    __slots__ = (
        "__weakref__",
        "_commenting",
        "_pausing",
        "_round",
        "_sent",
        "_spoke_s",
        "_worked_s",
        "final",
        "message",
        "streams",
        "version",
    )

    def __init__(self) -> None:
        """Start without a value."""
        self.version = 0
        self.message = _body(b"")
        self.final = False
        self.streams: set[Stream] = set()
        self._round: Iterator[Stream] | None = None
        self._pausing = False
        self._worked_s = 0.0
        self._commenting = False
        self._sent = 0
        """The version that the round began with."""
        self._spoke_s = asyncio.get_running_loop().time()

    def put(self, version: int, data: dict[str, object], *, final: bool = False) -> None:
        """Publish a value, unless one as new is there."""
        if version <= self.version:
            return
        self.version = version
        self.message = _body(b"id: %d\ndata: %s\n\n" % (version, _encode(data)))
        self.final = final
        if self._round is None and not self._pausing:
            self._go_round(commenting=False)

    def end(self) -> None:
        """End every stream, spread over a few seconds; their clients come back and learn what there is now."""
        for stream in self.streams:
            _end_soon(stream)

    def keep_alive(self, silence_s: float) -> None:
        """Send every stream a comment if the channel has been silent for so long."""
        silent_s = asyncio.get_running_loop().time() - self._spoke_s
        if self._round is None and not self._pausing and silent_s >= silence_s:
            self._go_round(commenting=True)

    def _go_round(self, *, commenting: bool) -> None:
        self._sent = self.version
        self._commenting = commenting
        self._spoke_s = asyncio.get_running_loop().time()
        self._worked_s = 0.0
        self._round = iter(tuple(self.streams))
        self._slice(self._round)

    def _slice(self, remaining: Iterator[Stream]) -> None:
        began_s = time.thread_time()
        now = tuple(islice(remaining, SLICE))
        for stream in now:
            try:
                stream.flush()
                if self._commenting:
                    stream.comment()
            except Exception:
                log.exception("stream.failed")
                self.streams.discard(stream)
        self._worked_s += time.thread_time() - began_s
        if len(now) == SLICE:
            asyncio.get_running_loop().call_soon(self._slice, remaining)
            return
        self._round = None
        if self.version == self._sent:
            return
        if len(self.streams) > SLICE:
            self._pausing = True
            asyncio.get_running_loop().call_later(min(self._worked_s, PAUSE_MAX_S), self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._pausing = False
        self._go_round(commenting=False)


class LiveHub:
    """Carries changes from the feed to channels, at most one per `interval_s` and product."""

    def __init__(self, services: ApiServices) -> None:
        """Wire it; `run` does the work."""
        self._services = services
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
        """Consume the feed, poll and keep streams alive beside it, for ever: what fails is logged and begun again."""
        beside = [asyncio.create_task(self._poll()), asyncio.create_task(self._keep_alive())]
        try:
            while True:
                try:
                    await self._consume()
                except Exception:
                    log.exception("live.failed")
                    await asyncio.sleep(self._poll_s)
        finally:
            for task in beside:
                task.cancel()

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

    def order(self, order_id: UUID) -> Channel:
        """Give an order's channel, known here while anybody has it; read the order after this, so nothing is missed."""
        channel = self._orders.get(order_id)
        if channel is None:
            channel = self._orders[order_id] = Channel()
        return channel

    @staticmethod
    def put_order(channel: Channel, order: Order) -> None:
        """Publish an order that was read."""
        _put_order(channel, order.order_id, order.status, order.version)

    def join(self, channel: Channel, stream: Stream) -> None:
        """Let a stream that has begun follow a channel."""
        channel.streams.add(stream)
        stream.flush()
        if self._closing:
            _end_soon(stream)

    def close(self) -> None:
        """End every stream, spread over a few seconds; also those that begin from now on."""
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
        known = {product.product_id for product in self._services.catalog.all()} if self._stock else set()
        for product_id, channel in self._stock.items():
            if product_id in known:
                self._publish(product_id)
            else:
                channel.end()
        watched = list(self._orders)
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
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._resume()
            except FlashSaleError as error:
                log.info("live.stale", reason=error.detail)
            except Exception:
                log.exception("live.failed")


def _end_soon(stream: Stream) -> None:
    asyncio.get_running_loop().call_later(random.uniform(0, CLOSE_SPREAD_S), stream.end)  # noqa: S311


def _put_order(channel: Channel, order_id: UUID, status: OrderStatus, version: int) -> None:
    data: dict[str, object] = {"orderId": str(order_id), "status": status.value, "version": version}
    channel.put(version, data, final=status in FINAL)
