"""The outermost layer of a process that traces: each request is a span."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from flashsale.domain.traces import SpanKind, read_traceparent
from flashsale.http.edge import ONE_CELL, Edge
from flashsale.http.metrics import NO_ROUTE
from flashsale.runtime.logs import REQUEST_ID
from flashsale.runtime.tracing import CURRENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from litestar import Litestar
    from litestar.types import ASGIApp, Receive, Scope, Send
    from litestar.types.asgi_types import Message

    from flashsale.domain.cells import Cells
    from flashsale.domain.traces import Span
    from flashsale.http.cors import Cors
    from flashsale.http.messages import Answer, Request
    from flashsale.http.metrics import Meter
    from flashsale.http.routing import Direct
    from flashsale.runtime.tracing import Tracer

HEADER = b"traceparent"


class TracedEdge(Edge):
    """Makes the spans; everything else is the edge's. A process that does not trace has no part of it."""

    def __init__(
        self,
        app: ASGIApp,
        litestar: Litestar,
        direct: Iterable[Direct],
        meter: Meter,
        *,
        cors: Cors,
        cells: Cells = ONE_CELL,
        tracer: Tracer,
        slow_s: float,
    ) -> None:
        """Keep all requests that fail or take `slow_s`."""
        super().__init__(app, litestar, direct, meter, cors=cors, cells=cells)
        self._tracer = tracer
        self._slow_ns = round(slow_s * 1_000_000_000)

    async def _named(self, name: str, request: Request, serve: Callable[[Request], Awaitable[Answer]]) -> Answer:
        span = self._begin(name, request.method, request.path, request.all(HEADER))
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value
        try:
            answer = await super()._named(name, request, serve)
            status = answer.status
        finally:
            self._end(span, status)
        return answer

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of the framework in a span, which ends with the head of the answer: a stream lasts longer."""
        route = self._routes.find(scope["path"])
        method = str(cast("dict[str, Any]", scope)["method"])
        sent = [value for name, value in scope["headers"] if name == HEADER]
        span = self._begin(NO_ROUTE if route is None else route.name, method, scope["path"], sent)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._end(span, message["status"])
            await send(message)

        try:
            await super().framework(scope, receive, noted)
        finally:
            if not span.ended_ns:
                self._end(span, HTTPStatus.INTERNAL_SERVER_ERROR.value)

    def _begin(self, name: str, method: str, path: str, sent: Sequence[bytes]) -> Span:
        # Of several headers none can be trusted; the specification has one.
        parent = read_traceparent(sent[0].decode("latin-1")) if len(sent) == 1 else None
        span = self._tracer.begin(method if name == NO_ROUTE else f"{method} {name}", SpanKind.SERVER, parent)
        span.facts.update({"http.request.method": method, "http.route": name, "url.path": path})
        # The server runs each request in a context of its own.
        CURRENT.set(span)
        return span

    def _end(self, span: Span, status: int) -> None:
        span.facts["http.response.status_code"] = status
        span.facts["flashsale.request_id"] = REQUEST_ID.get(b"").decode("ascii")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.error = f"status {status}"
        self._tracer.end(span, keep=time.time_ns() - span.began_ns >= self._slow_ns)
