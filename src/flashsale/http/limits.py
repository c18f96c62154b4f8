"""What one connection may cost: the size of a request's head and the time that a request may take to arrive.

uvicorn bounds neither. A request that comes complete in one read, as nearly all do, costs a few additions here; a timer
runs only for a connection that has not sent its first request, and for a request that is under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flashsale.http.metrics import NO_ROUTE, REQUESTS
from flashsale.http.problems import HEAD_TOO_LARGE, MALFORMED

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from flashsale.http.answers import Answer
    from flashsale.settings import HttpSettings


def limited(settings: HttpSettings) -> type[LimitedProtocol]:
    """Make the protocol class that holds these limits, for `uvicorn.Config(http=...)`."""
    limits = {"head_bytes_max": settings.head_bytes_max, "request_timeout_s": settings.request_timeout_s}
    return type("Limited", (LimitedProtocol,), limits)


_Base = HttpToolsProtocol
"""Called by this name where every request passes: `super()` would cost a few per cent of parsing."""


class LimitedProtocol(_Base):
    """One connection. What it refuses is answered with a problem document, then the connection ends."""

    head_bytes_max: ClassVar[int]
    """Request line and headers; with them the trailers and the framing of a chunked body, which are buffered too."""
    request_timeout_s: ClassVar[float]
    """From a request's first byte to its last, and from the connection to the first request."""

    _chunk = 0
    """Bytes of the read that is being parsed."""
    _fed = 0
    """Bytes of the request under way, its body aside; those that came in one read with the request before it, not."""
    _deadline: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None
    _refusal: Answer | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered; uvicorn tells only the last one that a client pipelined."""
        self._drop_deadline()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            _cut(self._running)

    def data_received(self, data: bytes) -> None:
        """Parse what came; what comes after a refusal is read and dropped, so that the client can read why."""
        if self._refused:
            return
        self._chunk = len(data)
        self._fed += self._chunk
        _Base.data_received(self, data)
        if self._fed and not self._refused:
            if self._fed > self.head_bytes_max:
                self._refuse(HEAD_TOO_LARGE)
            elif self._deadline is None:
                self._set_deadline()

    def on_headers_complete(self) -> None:
        """Parser: the head is complete. It is measured only if the reads that brought it were large enough."""
        if self._fed + self._chunk > self.head_bytes_max and self._head_bytes() > self.head_bytes_max:
            self._refusal = HEAD_TOO_LARGE
            raise ValueError("head too large")
        _Base.on_headers_complete(self)

    def on_body(self, body: bytes) -> None:
        """Parser: a part of the body, whose size is the routes' affair."""
        self._fed -= len(body)
        _Base.on_body(self, body)

    def on_message_complete(self) -> None:
        """Parser: the request is complete."""
        self._fed = 0
        if self._deadline is not None:
            self._drop_deadline()
        _Base.on_message_complete(self)

    def on_response_complete(self) -> None:
        """Answered; the next request that came meanwhile has its turn."""
        if self.pipeline and self._deadline is not None:
            # Nothing was read while it waited, so that its client has had no time to complete it.
            self._drop_deadline()
            self._set_deadline()
        _Base.on_response_complete(self)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words; the problem has its own
        """Refuse what the parser did."""
        self._refuse(self._refusal or MALFORMED)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _head_bytes(self) -> int:
        fields = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        return len(self.parser.get_method()) + len(self.url) + len("  HTTP/1.1\r\n\r\n") + fields

    def _refuse(self, problem: Answer) -> None:
        """Answer, unless another answer is on its way or this request has its own, and end the connection."""
        self._refused = True
        cycle, current = self.cycle, False
        if cycle is not None:
            current = cycle.scope is self.scope and cycle.more_body
            unanswered = current and not cycle.response_started and not self.pipeline
            if not unanswered and (current or not cycle.response_complete):
                self.transport.close()
                return
        if current:
            _cut(cycle)
        REQUESTS.labels(NO_ROUTE, str(problem.status)).inc()
        self.transport.write(_rendered(problem))
        # To close now would reset the connection while the client still sends, and the answer might be lost.
        self.transport.write_eof()
        if self._deadline is None:
            self._set_deadline()

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.request_timeout_s, self._expire)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self.pipeline:
            self._set_deadline()
        else:
            # Not `close`, which waits until the client has read what was sent.
            self.transport.abort()


def _cut(cycle: RequestResponseCycle) -> None:
    """Let a request's handler see that its client is gone; what it still sends is dropped."""
    cycle.disconnected = True
    cycle.message_event.set()


def _rendered(problem: Answer) -> bytes:
    return problem.head + b"connection: close\r\n\r\n" + problem.body
