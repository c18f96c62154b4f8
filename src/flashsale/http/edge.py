"""The outermost layer: names every request, counts and times it, and serves the direct routes.

Direct routes are those that nearly all requests of a sale take, and those that a flood takes: a refusal must be cheap.
They come before Litestar's layers, which would cost more than the routes themselves.
"""

from __future__ import annotations

import re
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
    from collections.abc import Awaitable, Callable, Iterable

    from litestar.types import ASGIApp, Receive, Scope, Send
    from litestar.types.asgi_types import Message

    from flashsale.http.answers import Answer
    from flashsale.http.metrics import Meter

log = structlog.get_logger(__name__)


class Direct(NamedTuple):
    """A direct route."""

    template: str
    """Its path, with a name in braces for each segment that may be anything."""
    method: str
    """The only one that it takes."""
    serve: Callable[[Scope, Receive], Awaitable[Answer]]


class Edge:
    """ASGI wrapper around the app."""

    def __init__(self, app: ASGIApp, direct: Iterable[Direct], meter: Meter) -> None:
        """Wrap an app; it gets what is for no direct route."""
        self._app = app
        self._by_path: dict[str, Direct] = {}
        self._by_pattern: list[tuple[re.Pattern[str], Direct]] = []
        for route in direct:
            if "{" in route.template:
                parts = ("[^/]+" if part.startswith("{") else re.escape(part) for part in route.template.split("/"))
                pattern = re.compile("/".join(parts) + "/?")
                self._by_pattern.append((pattern, route))
            else:
                self._by_path |= {route.template: route, route.template + "/": route}
        self._count = meter.count
        self._request_ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        request_id = self._request_ids.bind(scope)
        path = scope["path"]
        direct = self._by_path.get(path) or self._matching(path)
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

    def _matching(self, path: str) -> Direct | None:
        for pattern, route in self._by_pattern:
            if pattern.fullmatch(path) is not None:
                return route
        return None


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
