"""The open streams of a process: a stream begins in a route, follows a channel, and outlasts the route."""

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
from flashsale.http.streams.channel import ENDED, Stream

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
    # The connection ends with the stream, so that a client reconnects to a process that accepts connections.
    (b"connection", b"close"),
]

RENEW_MS = 5000
"""Delay after which an EventSource reconnects if its page did not renew the token."""

BEGUN = "flashsale.stream"
"""Key in the scope of the function that holds a stream which a route has begun."""


class Streams:
    """The streams of a process; they hold no database connection."""

    def __init__(self, services: Services, tokens: Tokens, hub: LiveHub) -> None:
        """Keep the parts."""
        self._services = services
        self._tokens = tokens
        self._hub = hub
        self._settings = services.settings.live
        self._open = 0
        self._private: dict[Stream, Principal] = {}
        """Streams of orders, and who watches."""

    async def stock(self, product_id: int, last: int, *, details: bool = False) -> ASGIApp:
        """Begin the stream of a product, for a client that has version `last`.

        `details`: also tell the product, now and after each change.

        Raises:
            ProductNotFound: if there is no such product.
            Unavailable: if too many streams are open here.
        """
        self._check_room()
        await self._services.catalog.get(product_id)
        channel = await self._hub.stock(product_id)

        async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
            await self._begin("stock", channel, last, scope, send, details=details)

        return answer

    async def order(
        self, order_id: UUID, principal: Principal, last: int, *, expired: bool = False, details: bool = False
    ) -> ASGIApp:
        """Begin the stream of an order, for its owner.

        `details`: also tell changes of anything but the state, and go on after a final state that something may follow.
        `expired`: the stream token has expired. An EventSource never reconnects after an answer that is no stream. The
        answer is therefore a stream with one event, which asks the page for another token, and no data of the order.

        Raises:
            OrderNotFound: if the order is not the caller's.
            Unavailable: as for `stock`.
        """
        self._check_room()
        # Check the owner first, and read the order again after subscribing, so that no change in between is missed.
        await self._services.orders.get(order_id, principal)
        if expired:
            return partial(_ask_for_token, order_id)

        async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
            channel = self._hub.order(order_id)
            await self._hub.trace(channel, order_id)
            self._hub.put_order(channel, await self._services.orders.get(order_id, principal))
            if (channel.over if details else channel.final) and last == channel.version:
                # The client has the last state: 204 tells an EventSource not to reconnect.
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await self._begin("order", channel, last, scope, send, principal, details=details)

        return answer

    async def end_revoked(self) -> None:
        """End the streams of watchers whose tokens are revoked; runs until cancelled."""
        revocations = self._services.revocations
        while True:
            await revocations.risen.wait()
            revocations.risen.clear()
            for stream, principal in tuple(self._private.items()):
                with suppress(FlashSaleError):
                    if not revocations.holds(principal):
                        stream.end()
            # One pass covers all revocations of an interval, however many there are.
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
        # A stopping process still begins streams and ends them at once: an EventSource reconnects after an end, but
        # never after a 503.
        if self._open >= self._settings.streams_max:
            raise Unavailable("Too many streams here; try again.")

    async def _begin(
        self,
        kind: str,
        channel: Channel,
        last: int,
        scope: Scope,
        send: Send,
        principal: Principal | None = None,
        *,
        details: bool,
    ) -> None:
        """Send the head of a stream, and let `StreamsOutlast` hold it from then on."""
        # Check again, because other streams may have begun meanwhile; no await lies between this check and the count.
        self._check_room()
        self._count(kind, 1)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            retry_ms = round(self._settings.retry_ms * random.uniform(1, 2))  # noqa: S311 - spreads reconnections
            # Of details the client names no version: it gets them at each beginning, in the same write.
            known = channel.details if details else None
            head = b"retry: %d\n\n" % retry_ms + (b"" if known is None else known.message["body"])
            await send({"type": "http.response.body", "body": head, "more_body": True})
        except BaseException:
            self._count(kind, -1)
            raise
        has = ENDED if known is None else known.version
        cast("dict[str, Any]", scope)[BEGUN] = partial(self._hold, kind, channel, last, has, principal)

    async def _hold(
        self,
        kind: str,
        channel: Channel,
        last: int,
        details: int,
        principal: Principal | None,
        receive: Receive,
        send: Send,
    ) -> None:
        """Let a stream follow its channel until the client disconnects, which the server also reports after an end."""
        # A version of another time line, or an invented one, counts as none: the client would wait until it is reached.
        stream = Stream(channel, last if last <= channel.version else 0, send, details=details)
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
    """Send the event that asks the page to renew its token."""
    data = msgspec.json.encode({"orderId": order_id, "renewAt": f"/api/order/{order_id}/stream-token"})
    event = b"retry: %d\nevent: token-expired\ndata: %b\n\n" % (RENEW_MS, data)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": event, "more_body": False})


class StreamsOutlast:
    """ASGI wrapper around the app that holds a stream after the route that began it has returned.

    The framework's frames and objects for the request are thus freed while the stream is open.
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
