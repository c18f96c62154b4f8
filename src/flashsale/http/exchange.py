"""The server's side of ASGI, for a request that the framework answers."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog

from flashsale.http import problems
from flashsale.http.messages import STATUS_LINES, Answer

if TYPE_CHECKING:
    from litestar.types import ASGIApp

    from flashsale.http.contracts import ConnectionOfExchange
    from flashsale.http.messages import Headers, Request

log = structlog.get_logger(__name__)

STREAM = b"text/event-stream"
SAVED = b"content-disposition"
"""An answer with this field is for a file. It is sent as its parts come, in chunks, so that a client of HTTP/1.1 sees
whether it got all: the last chunk is sent only once the app has ended the body."""
CHUNKED_LINE, LAST_CHUNK = b"transfer-encoding: chunked\r\n", b"0\r\n\r\n"
_CONNECTION_S = {b"connection", b"date", b"keep-alive", b"transfer-encoding"}
"""Fields that the connection writes, or which have no meaning on it."""

_WITHOUT_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
"""Statuses whose answers end with their heads."""


class Exchange:
    """One request and its answer by an ASGI app."""

    __slots__ = ("_chunked", "_connection", "_ended", "_parts", "_received", "_request", "_scope", "_start", "_streams")

    def __init__(self, connection: ConnectionOfExchange, request: Request, transport: asyncio.Transport) -> None:
        """Answer over a connection."""
        self._connection = connection
        self._request: Request | None = request
        self._received = False
        self._ended: asyncio.Future[None] | None = None
        self._start: dict[str, Any] | None = None
        self._parts: list[bytes] = []
        self._streams = self._chunked = False
        self._scope: dict[str, Any] | None = asgi_scope(request, transport)

    async def run(self, app: ASGIApp) -> None:
        """Run the app until it has answered."""
        scope, self._scope = self._scope, None
        try:
            await app(scope, self.receive, self.send)  # type: ignore[arg-type]
        except Exception:
            log.exception("request.failed")
        if self._streams:
            self._connection.end_stream()
        elif self._request is not None:
            self._request = None
            self._connection.answer(problems.INTERNAL)

    async def receive(self) -> Any:
        """Return the whole body first; then wait, and return a disconnect once the answer or the connection ends."""
        if not self._received and self._request is not None:
            self._received = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        if self._request is not None or self._streams:
            if self._ended is None:
                self._ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._ended)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Take the head or a part of the body from the app."""
        if message["type"] == "http.response.start":
            self._start, self._parts = message, []
        elif self._streams:
            await self._write(message["body"])
            if not message.get("more_body", False):
                if self._chunked:
                    await self._connection.write(LAST_CHUNK)
                self._streams = False
                self._connection.end_stream()
                self.disconnect()
        elif self._request is not None and self._start is not None:
            await self._take(message)

    async def _take(self, message: Any) -> None:
        start, request = self._start, self._request
        assert start is not None and request is not None  # noqa: S101, PT018 - for the type checker
        more = message.get("more_body", False)
        saved = any(name == SAVED for name, _ in start["headers"])
        streams = saved or (more and is_stream(start["headers"]))
        self._chunked = saved and request.version == "1.1"
        if more and streams and request.method != "HEAD":
            head = self._head_of(start, None)
            self._streams, self._request, self._start = True, None, None
            self._connection.begin_stream(head)
            await self._write(message["body"])
            return
        if request.method != "HEAD":
            self._parts.append(message.get("body", b""))
        elif more and streams:
            more = False
        if not more:
            body = b"" if start["status"] in _WITHOUT_BODY else b"".join(self._parts)
            length = None if request.method == "HEAD" else len(body)
            answer = Answer(start["status"], self._head_of(start, length), body)
            self._request = None
            self._connection.answer(answer)
            self.disconnect()

    async def _write(self, body: bytes) -> None:
        if self._chunked and body:  # an empty chunk would be the last
            await self._connection.write(b"%x\r\n%b\r\n" % (len(body), body), limited=True)
        elif body:
            await self._connection.write(body)

    def _head_of(self, start: Any, length: int | None) -> bytes:
        """Render a head; only an answer without a length is sent in chunks."""
        chunked = self._chunked and length is None
        return _head(start["status"], start["headers"], length) + (CHUNKED_LINE if chunked else b"")

    def disconnect(self) -> None:
        """Tell the app that the client has disconnected."""
        self._received, self._request, self._streams = True, None, False
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


def is_stream(headers: Headers) -> bool:
    """Return whether an answer is an event stream, whatever parameters its media type has."""
    return any(name == b"content-type" and value.partition(b";")[0] == STREAM for name, value in headers)


def asgi_scope(request: Request, transport: asyncio.Transport) -> dict[str, Any]:
    """Make the ASGI scope of a request. HEAD becomes GET, and the connection does not send the body."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.version,
        "method": "GET" if request.method == "HEAD" else request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": transport.get_extra_info("peername"),
        "server": transport.get_extra_info("sockname"),
        "state": {},
    }


def _head(status: int, headers: Headers, length: int | None) -> bytes:
    """Render a head. `length` replaces the Content-Length of the app; None for a stream and for HEAD."""
    lines = [STATUS_LINES[status]]
    for name, value in headers:
        if name.lower() not in _CONNECTION_S and (length is None or name.lower() != b"content-length"):
            if b"\n" in value or b"\r" in value:
                raise ValueError(name)
            lines.append(b"%b: %b\r\n" % (name, value))
    if length is not None and status not in _WITHOUT_BODY:
        lines.append(b"content-length: %d\r\n" % length)
    return b"".join(lines)
