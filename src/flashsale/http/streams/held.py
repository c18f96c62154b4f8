"""Streams that a process holds open: they begin in a route, follow a channel, and outlast the route."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
from litestar.types import ASGIApp

from flashsale.domain.errors import FlashSaleError, Unavailable
from flashsale.http import metrics
from flashsale.http.streams.channel import Stream

if TYPE_CHECKING:
    from uuid import UUID

    from litestar import Request
    from litestar.types import Receive, Scope, Send

    from flashsale.domain.users import Principal
    from flashsale.http.auth import Tokens
    from flashsale.http.streams.channel import Channel
    from flashsale.http.streams.hub import LiveHub
    from flashsale.usecases.services import Services

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    # Ends with the stream: a client that reconnects reaches a process that accepts connections.
    (b"connection", b"close"),
]

RENEW_MS = 5000
"""When an EventSource comes back whose page did not renew its token."""

BEGUN = "flashsale.stream"
"""Name in the scope of what holds the stream that a route has begun."""


class Streams:
    """The streams of a process; they hold no database connection."""

    def __init__(self, services: Services, tokens: Tokens, hub: LiveHub) -> None:
        """Wire it."""
        self._services = services
        self._tokens = tokens
        self._hub = hub
        self._settings = services.settings.live
        self._open = 0
        self._private: dict[Stream, Principal] = {}
        """Streams of orders, and who watches."""

    async def stock(self, product_id: int, last: int) -> ASGIApp:
        """Return the answer to a request for a product's stream, by a client that has version `last`.

        Raises:
            ProductNotFound: if there is none.
            Unavailable: if too many streams are open here.
        """
        self._check_room()
        await self._services.catalog.get(product_id)
        channel = await self._hub.stock(product_id)

        async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
            await self._begin("stock", channel, last, scope, send)

        return answer

    async def order(self, order_id: UUID, principal: Principal, last: int, *, expired: bool = False) -> ASGIApp:
        """Return the answer to its owner's request for an order's stream.

        `expired`: the stream token has expired. An EventSource never reconnects after an answer that is no stream. It
        therefore gets a stream with the event that asks its page for another token, and nothing of the order.

        Raises:
            OrderNotFound: if it is not the caller's.
            Unavailable: as for `stock`.
        """
        self._check_room()
        # Owner first, and read once more after subscribing: nothing between the two is missed.
        await self._services.orders.get(order_id, principal)
        if expired:
            return partial(_ask_for_token, order_id)

        async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
            channel = self._hub.order(order_id)
            self._hub.put_order(channel, await self._services.orders.get(order_id, principal))
            if channel.final and last == channel.version:
                # Everything is known: 204 tells an EventSource not to come back.
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await self._begin("order", channel, last, scope, send, principal)

        return answer

    async def end_revoked(self) -> None:
        """End the streams whose watcher's tokens end, for ever."""
        revocations = self._services.revocations
        while True:
            await revocations.risen.wait()
            revocations.risen.clear()
            for stream, principal in tuple(self._private.items()):
                with suppress(FlashSaleError):
                    if not revocations.holds(principal):
                        stream.end()
            # One look for all revocations of a while, however many there are.
            await asyncio.sleep(self._settings.interval_s)

    def principal(self, request: Request[Any, Any, Any], order_id: UUID) -> tuple[Principal, bool]:
        """Return the caller, and whether the stream token has expired. A stream token of this order in the query takes
        precedence over the Authorization header.
        """
        token = request.query_params.get("token")
        if token is not None:
            return self._tokens.read_stream(token, order_id)
        return self._tokens.principal(request.scope), False

    def _check_room(self) -> None:
        # While the process stops a stream is still begun, and ended at once: an EventSource comes back after an end,
        # but never after a 503.
        if self._open >= self._settings.streams_max:
            raise Unavailable("Too many streams here; try again.")

    async def _begin(
        self, kind: str, channel: Channel, last: int, scope: Scope, send: Send, principal: Principal | None = None
    ) -> None:
        """Send the head of a stream, and let `StreamsOutlast` hold it from then on."""
        # Again, for those who came in while this stream was being prepared; nothing is awaited before it is counted.
        self._check_room()
        self._count(kind, 1)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            retry_ms = round(self._settings.retry_ms * random.uniform(1, 2))  # noqa: S311 - spreads reconnections
            await send({"type": "http.response.body", "body": b"retry: %d\n\n" % retry_ms, "more_body": True})
        except BaseException:
            self._count(kind, -1)
            raise
        cast("dict[str, Any]", scope)[BEGUN] = partial(self._hold, kind, channel, last, principal)

    async def _hold(
        self, kind: str, channel: Channel, last: int, principal: Principal | None, receive: Receive, send: Send
    ) -> None:
        """Let a stream follow its channel until its client is gone, or it has ended: then, too, a disconnect comes."""
        # What the client has of another time line, or made up, is nothing: it must not wait until versions get there.
        stream = Stream(channel, last if last <= channel.version else 0, send)
        try:
            self._hub.join(channel, stream)
            if principal is not None:
                self._private[stream] = principal
                if not self._services.revocations.holds(principal):
                    stream.end()
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            channel.streams.discard(stream)
            self._private.pop(stream, None)
            stream.forget()
            self._count(kind, -1)

    def _count(self, kind: str, change: int) -> None:
        self._open += change
        metrics.STREAMS.labels(kind).inc(change)


async def _ask_for_token(order_id: UUID, _scope: Scope, _receive: Receive, send: Send) -> None:
    """Send the event that a page renews its token at."""
    data = msgspec.json.encode({"orderId": order_id, "renewAt": f"/api/order/{order_id}/stream-token"})
    event = b"retry: %d\nevent: token-expired\ndata: %b\n\n" % (RENEW_MS, data)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": event, "more_body": False})


class StreamsOutlast:
    """ASGI wrapper around the app: holds a stream once the route that began it has returned.

    So what the framework keeps while it serves a request, frames and objects, does not stay for as long as the stream.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        await self._app(scope, receive, send)
        begun = cast("dict[str, Any]", scope)
        hold = begun.get(BEGUN)
        if hold is not None:
            begun.clear()
            await hold(receive, send)
