"""Server-sent events: the stock of a product, the state of an order."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath, SkipValidation
from litestar.types import ASGIApp

from flashsale.domain.errors import Unavailable
from flashsale.http import metrics

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

    from flashsale.domain.users import Principal
    from flashsale.http.auth import Tokens
    from flashsale.http.live import Channel, LiveHub
    from flashsale.http.services import ApiServices

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    # Ends with the stream: whoever comes back, comes to a process that takes connections.
    (b"connection", b"close"),
]

CLOSE_SPREAD_S = 3.0
"""Streams of a stopping process end within this time, so that their clients do not all come back at once."""


class Streams:
    """The streams of a process; they hold no database connection."""

    def __init__(self, services: ApiServices, tokens: Tokens, hub: LiveHub) -> None:
        """Wire it."""
        self._services = services
        self._tokens = tokens
        self._hub = hub
        self._settings = services.settings.live
        self._open = 0

    async def stock(self, product_id: int, last: int) -> ASGIApp:
        """Give the answer to a request for a product's stream, by a client that has version `last`.

        Raises:
            ProductNotFound: if there is none.
            Unavailable: if too many streams are open here.
        """
        self._check_room()
        await self._services.catalog.get(product_id)
        channel = await self._hub.stock(product_id)

        async def answer(_scope: Scope, receive: Receive, send: Send) -> None:
            with metrics.STREAMS.labels("stock").track_inprogress():
                await self._run(channel, last, receive, send)

        return answer

    async def order(self, order_id: UUID, principal: Principal, last: int) -> ASGIApp:
        """Give the answer to its owner's request for an order's stream.

        Raises:
            OrderNotFound: if it is not the caller's.
            Unavailable: as for `stock`.
        """
        self._check_room()
        # Owner first, and read once more after subscribing: nothing between the two is missed.
        await self._services.orders.get(order_id, principal)

        async def answer(_scope: Scope, receive: Receive, send: Send) -> None:
            channel = self._hub.watch(order_id)
            try:
                self._hub.put_order(channel, await self._services.orders.get(order_id, principal))
                if channel.final and last >= channel.version:
                    # Everything is known: 204 tells an EventSource not to come back.
                    await send({"type": "http.response.start", "status": 204, "headers": []})
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                with metrics.STREAMS.labels("order").track_inprogress():
                    await self._run(channel, last, receive, send)
            finally:
                self._hub.unwatch(order_id)

        return answer

    def principal(self, request: Request[Any, Any, Any], order_id: UUID) -> Principal:
        """Give who asks: by a stream token of this order in the query, else by the Authorization header."""
        token = request.query_params.get("token")
        if token is not None:
            return self._tokens.verify_stream(token, order_id)
        return self._tokens.principal(request.scope)

    def _check_room(self) -> None:
        # While the process stops a stream is still begun, and ended at once: an EventSource comes back after an end,
        # but never after a 503.
        if self._open >= self._settings.streams_max:
            raise Unavailable("Too many streams here; try again.")

    async def _run(self, channel: Channel, last: int, receive: Receive, send: Send) -> None:
        settings = self._settings
        # Again, for those who came in while this stream was being prepared; nothing is awaited before it is counted.
        self._check_room()
        self._open += 1
        ring = asyncio.Event()
        gone = asyncio.ensure_future(_disconnected(receive))
        gone.add_done_callback(lambda _: ring.set())
        channel.listeners.add(ring)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            retry_ms = round(settings.retry_ms * random.uniform(1, 2))  # noqa: S311 - spreads reconnections
            await send({"type": "http.response.body", "body": b"retry: %d\n\n" % retry_ms, "more_body": True})
            while not gone.done() and not self._hub.closing.is_set():
                ring.clear()
                if channel.version > last:
                    last = channel.version
                    await send({"type": "http.response.body", "body": channel.message, "more_body": True})
                elif channel.final:
                    break
                else:
                    try:
                        async with asyncio.timeout(settings.keepalive_s):
                            await ring.wait()
                    except TimeoutError:
                        await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})
            if self._hub.closing.is_set() and not gone.done():
                await asyncio.wait((gone,), timeout=random.uniform(0, CLOSE_SPREAD_S))  # noqa: S311
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._open -= 1
            channel.listeners.discard(ring)
            gone.cancel()


UseStreams = NamedDependency[SkipValidation[Streams]]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _last_event_id(request: Request[Any, Any, Any]) -> int:
    value = request.headers.get("last-event-id", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else 0  # noqa: PLR2004 - 64 bits


@get("/sse/stock/{product_id:int}", summary="Watch a product's stock", tags=["live"])
async def stock_stream(request: Request[Any, Any, Any], product_id: FromPath[int], streams: UseStreams) -> ASGIApp:
    """Stream the free units of a product, from now on."""
    return await streams.stock(product_id, _last_event_id(request))


@get("/sse/orders/{order_id:uuid}", summary="Watch an order", tags=["live"])
async def order_stream(request: Request[Any, Any, Any], order_id: FromPath[UUID], streams: UseStreams) -> ASGIApp:
    """Stream the state of an order to its owner, until it is final."""
    return await streams.order(order_id, streams.principal(request, order_id), _last_event_id(request))
