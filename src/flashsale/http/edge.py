"""The outermost layer: gives each request an id, finds its route, counts and times it, and serves direct routes.

Direct routes serve nearly all requests of a sale, and the requests of a flood, which must be refused at low cost. They
bypass Litestar, whose layers would cost more than the routes themselves.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import structlog
from litestar.enums import ScopeType

from flashsale.domain.cells import Cells
from flashsale.domain.errors import FlashSaleError, RateLimited, SoldOut
from flashsale.http.cells import as_of_cell
from flashsale.http.conditions import TAGGED, is_known, tag_of
from flashsale.http.limits import FIELDS
from flashsale.http.messages import NOSNIFF, Answer, Request, empty
from flashsale.http.metrics import NO_ROUTE, REQUESTS
from flashsale.http.problems import INTERNAL, NO_SUCH_PATH, SOLD_OUT, method_not_allowed, problem_of
from flashsale.http.request_ids import HEADER, RequestIds
from flashsale.http.routing import Routes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from contextlib import AbstractAsyncContextManager

    from litestar import Litestar
    from litestar.types import ASGIApp, Receive, Scope, Send
    from litestar.types.asgi_types import Message

    from flashsale.http.cors import Cors
    from flashsale.http.messages import Headers
    from flashsale.http.metrics import Meter
    from flashsale.http.routing import Direct, Route

log = structlog.get_logger(__name__)

ONE_CELL = Cells()

NO_STORE = b"no-store"
"""No cache may store tokens, and answers or refusals that depend on a token. A client may still keep the tag of an
order and poll with it."""

CACHING = {
    # A cache must revalidate a stock with its tag each time, because an old stock shows units that are sold.
    "/api/products": b"no-cache",
    "/api/products/{product_id}": b"no-cache",
    "/problems/{code}": b"max-age=3600",
    NO_ROUTE: b"no-cache",
}
"""Cache-Control by route; all other paths below /api have NO_STORE."""

CACHING_LINES = {name: b"cache-control: %b\r\n" % value for name, value in CACHING.items()}
NO_STORE_LINE = b"cache-control: %b\r\n" % NO_STORE
CACHING_FIELD = b"\r\ncache-control: "
"""How the answer of a page names its own caching; one that names none has NO_STORE."""


class Edge:
    """The application. Our server calls `direct` and `framework`; any ASGI server can call it too."""

    def __init__(
        self,
        app: ASGIApp,
        litestar: Litestar,
        direct: Iterable[Direct],
        meter: Meter,
        *,
        cors: Cors,
        cells: Cells = ONE_CELL,
    ) -> None:
        """Wrap an ASGI app, which gets the requests that no direct route answers."""
        self._app = app
        self._litestar = litestar
        self._routes = Routes(litestar, direct)
        self._pages = self._routes.pages
        self._caching = CACHING_LINES | dict.fromkeys(self._pages, b"")
        self._count = meter.count
        self._request_ids = RequestIds()
        self._cors = cors
        self._cells = cells

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Run the app's background tasks while the context is open."""
        return self._litestar.lifespan()

    def refused(self, problem: Answer) -> None:
        """Count a refusal of something that was not a valid request."""
        REQUESTS.labels(NO_ROUTE, str(problem.status)).inc()

    def direct(self, request: Request) -> Coroutine[Any, Any, Answer] | None:
        """Return what answers a request without the framework, or None."""
        route = self._routes.find(request.path)
        if route is None:
            return self._named(NO_ROUTE, request, _always(NO_SUCH_PATH))
        method = request.method
        direct = route.methods.get("GET" if method == "HEAD" else method, _NOBODY)
        if direct is _NOBODY:
            answer = self._options(route, request) if method == "OPTIONS" else method_not_allowed(route.allowed)
            return self._named(route.name, request, _always(answer))
        if request.query and not route.is_page:
            try:
                route.queries["GET" if method == "HEAD" else method].check(request.query)
            except FlashSaleError as error:
                return self._named(route.name, request, _always(problem_of(error)))
        if direct is None:
            return None
        return self._named(route.name, request, direct.serve)

    async def _named(self, name: str, request: Request, serve: Callable[[Request], Awaitable[Answer]]) -> Answer:
        began_s = time.perf_counter()
        fields = request.fields
        request_id = self._request_ids.bind(fields.get(HEADER))
        try:
            answer = await serve(request)
        except SoldOut:
            answer = SOLD_OUT
        except RateLimited as error:
            # The problem document has its own RateLimit fields.
            request.extra = b""
            answer = problem_of(error)
        except FlashSaleError as error:
            answer = problem_of(as_of_cell(self._cells, error, request.path))
        except Exception:
            log.exception("request.failed", path=name)
            answer = INTERNAL
        if answer.status == HTTPStatus.OK and request.method in LOOKS and name.startswith(TAGGED):
            answer = _tagged(answer, request)
        self._count(name, answer.status, time.perf_counter() - began_s)
        cors = self._cors.fields(fields.get(b"origin")) if self._cors.on and name not in self._pages else b""
        status, head, body = answer
        caching = self._caching.get(name, NO_STORE_LINE) or (b"" if CACHING_FIELD in head else NO_STORE_LINE)
        return Answer(
            status, b"".join((head, caching, request.extra, b"x-request-id: ", request_id, b"\r\n", cors)), body
        )

    def _options(self, route: Route, request: Request) -> Answer:
        preflight = [] if route.is_page else self._cors.preflight(request, route.allowed)
        return empty(204, (b"allow", route.allowed), *preflight)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what `direct` leaves to the framework, as an ASGI app."""
        began_s = time.perf_counter()
        headers = list(scope["headers"])
        request_id = self._request_ids.bind(_first(headers, HEADER))
        route = self._routes.find(scope["path"])
        name = NO_ROUTE if route is None else route.name

        looks = cast("dict[str, Any]", scope)["method"] in LOOKS and name.startswith(TAGGED)
        held: Any = None

        async def begin(start: Any) -> None:
            self._count(name, start["status"], time.perf_counter() - began_s)
            more = [NOSNIFF, (HEADER, request_id), *self._cors.headers(_first(headers, b"origin"))]
            more += cast("dict[str, Any]", scope).get(FIELDS, ())
            if name in CACHING or name.startswith("/api/"):
                more.append((b"cache-control", CACHING.get(name, NO_STORE)))
            start["headers"] = [*start["headers"], *more]
            await send(start)

        async def counted(message: Message) -> None:
            nonlocal held
            if message["type"] != "http.response.start":
                if held is not None:
                    # If the first part is the whole body, its tag can be made here.
                    start, held = held, None
                    if not message.get("more_body", False):
                        message = _conditional(start, message, headers)
                    await begin(start)
                await send(message)
            elif looks and message["status"] == HTTPStatus.OK:
                held = message
            else:
                await begin(message)

        await self._app(scope, receive, counted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve every request as an ASGI app, under any ASGI server."""
        if scope["type"] != ScopeType.HTTP:
            await self._litestar(scope, receive, send)
            return
        request = Request(
            method=str(scope["method"]), path=scope["path"], query=scope["query_string"], headers=list(scope["headers"])
        )
        client = scope.get("client")
        request.peer = client[0] if client else ""
        more = True
        while more:
            message: Any = await receive()
            request.body += message.get("body", b"")
            more = message.get("more_body", False)
        direct = self.direct(request)
        if direct is not None:
            answer = await direct
            await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
            await send({"type": "http.response.body", "body": answer.body, "more_body": False})
            return
        given: list[Any] = [{"type": "http.request", "body": request.body, "more_body": False}]

        async def again() -> Any:
            return given.pop() if given else await receive()

        await self.framework(scope, again, send)


_NOBODY: Any = object()
LOOKS = {"GET", "HEAD"}


def _tagged(answer: Answer, request: Request) -> Answer:
    """Add the entity tag to an answer; return 304 if the client has this tag."""
    tag = request.tag or tag_of(answer.body)
    if b"if-none-match" in request.fields and is_known(tag, request.all(b"if-none-match")):
        return empty(HTTPStatus.NOT_MODIFIED, (b"etag", tag))
    return Answer(answer.status, b"%betag: %b\r\n" % (answer.head, tag), answer.body)


def _conditional(start: Any, message: Any, headers: Headers) -> Any:
    """Do the same for the framework's answer, whose own tag is kept; returns the body message to send."""
    tag = _first(start["headers"], b"etag")
    if tag is None:
        tag = tag_of(message["body"])
        start["headers"] = [*start["headers"], (b"etag", tag)]
    if not is_known(tag, [value for name, value in headers if name == b"if-none-match"]):
        return message
    start["status"] = HTTPStatus.NOT_MODIFIED.value
    start["headers"] = [(name, value) for name, value in start["headers"] if not name.startswith(b"content-")]
    return {**message, "body": b""}


def _first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)


def _always(answer: Answer) -> Callable[[Request], Awaitable[Answer]]:
    async def serve(_: Request) -> Answer:
        return answer

    return serve
