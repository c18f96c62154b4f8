"""The outermost layer: names every request, counts and times it, and serves the direct routes.

Direct routes are those that nearly all requests of a sale take. They come before Litestar's layers, which would cost
more than the routes themselves.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import structlog
from litestar.enums import ScopeType

from flashsale.domain.errors import FlashSaleError, SoldOut
from flashsale.http.answers import NOSNIFF
from flashsale.http.metrics import NO_ROUTE
from flashsale.http.problems import INTERNAL, METHOD_NOT_ALLOWED, SOLD_OUT, problem_of
from flashsale.http.request_ids import HEADER, RequestIds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar.types import ASGIApp, Receive, Scope, Send
    from litestar.types.asgi_types import Message

    from flashsale.http.answers import Answer
    from flashsale.http.metrics import Meter

log = structlog.get_logger(__name__)


class Direct(NamedTuple):
    """A direct route."""

    template: str
    """Its path, for metrics."""
    method: str
    """The only one that it takes."""
    serve: Callable[[Scope, Receive], Awaitable[Answer]]


class Edge:
    """ASGI wrapper around the app."""

    def __init__(self, app: ASGIApp, direct: Callable[[str], Direct | None], meter: Meter) -> None:
        """Wrap an app; `direct` finds the direct route of a path."""
        self._app = app
        self._direct = direct
        self._count = meter.count
        self._request_ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        request_id = self._request_ids.bind(scope)
        direct = self._direct(scope["path"])
        if direct is not None:
            answer = await _served(direct, scope, receive)
            self._count(direct.template, answer.status, time.perf_counter() - began_s)
            await answer.send(send, request_id)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route: str = scope.get("path_template") or NO_ROUTE
                self._count(route, message["status"], time.perf_counter() - began_s)
                message["headers"] = [*message["headers"], NOSNIFF, (HEADER, request_id)]
            await send(message)

        await self._app(scope, receive, counted)


async def _served(direct: Direct, scope: Scope, receive: Receive) -> Answer:
    if scope["method"] != direct.method:  # type: ignore[typeddict-item]
        return METHOD_NOT_ALLOWED[direct.method]
    try:
        return await direct.serve(scope, receive)
    except SoldOut:
        return SOLD_OUT
    except FlashSaleError as error:
        return problem_of(error)
    except Exception:
        log.exception("request.failed", path=direct.template)
        return INTERNAL
