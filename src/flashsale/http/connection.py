"""One HTTP/1.1 connection: each of its bytes belongs to one request, and what it may cost is bounded.

llhttp parses (by httptools). It is fed no byte beyond the end of a head or a body, so that requests never mix; one is
answered before the next is read. What RFC 9112 does not allow is refused, and the connection ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import termios
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import httptools

from flashsale.http import problems
from flashsale.http.exchange import Exchange
from flashsale.http.heads import Malformed, is_line, method_of, parse_head

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from flashsale.http.contracts import ServerOfConnections
    from flashsale.http.messages import Answer, Headers, Request

HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

STEPS_MAX = 64
"""Heads and bodies that a connection takes before other connections have their turn."""

PATIENCE = 0.1
"""The part of its time in which an unfinished request is left alone when another connection needs the room."""


class _Refused(Exception):
    def __init__(self, problem: Answer) -> None:
        self.problem = problem


class Connection(asyncio.BufferedProtocol):
    """From its first byte to its last."""

    __slots__ = (
        "_advancing", "_blocked", "_body", "_body_bytes", "_chunked", "_complete", "_deadline_s", "_dropping", "_ended",
        "_exchange", "_gone", "_head", "_head_bytes", "_head_done", "_headers", "_keep", "_left", "_parser", "_paused",
        "_peer", "_request", "_rest", "_server", "_timer", "_trailers", "_transport", "_under_way", "_upgrade",
        "_waiting", "busy",
    )  # fmt: skip

    def __init__(self, server: ServerOfConnections) -> None:
        """Belong to a server."""
        self._server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._peer = ""
        self._parser: Any = httptools.HttpRequestParser(self)
        self._rest = b""
        """Bytes that were not parsed: at most one read more than a request while another request is answered."""
        self._head = b""
        """The part of a head that came in reads before."""
        self._headers: Headers = []
        self._head_bytes = self._body_bytes = self._left = 0
        """Bytes of the current request: outside of its body, in its body, and of its body that have not arrived."""
        self._head_done = self._complete = self._chunked = self._upgrade = self._trailers = self._under_way = False
        self._keep = True
        self._request: Request | None = None
        """The request whose body comes, or which is answered."""
        self._body: list[bytes] = []
        self.busy = False
        """Whether a request is being answered."""
        self._advancing = False
        """Whether requests are being taken: one that is answered at once must not take the next by itself."""
        self._blocked = self._paused = False
        """Whether the client does not take what it is sent; whether we do not take what it sends."""
        self._dropping = self._ended = self._gone = False
        """Whether what comes is dropped; whether the client said that it sends no more; whether it is gone."""
        self._exchange: Exchange | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._deadline_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    # The transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request, if the server has room."""
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        if self._server.take(self):
            self._wait_for_more()
        else:
            self._say(problems.FULL)
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever the reason
        """Tell the request that is being answered."""
        self._gone = True
        self._server.forget(self)
        self._stop_timer()
        self._rest = b""
        self._wake()
        if self._exchange is not None:
            self._exchange.disconnect()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - all connections share one buffer
        """Return where to read to; it is emptied before anything else is read."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came."""
        if self._dropping:
            return
        data = self._server.buffer[:nbytes].tobytes()
        self._rest = self._rest + data if self._rest else data
        self.advance()

    def eof_received(self) -> bool:
        """Finish what is being answered, then close."""
        self._ended = True
        if self.busy and not self._dropping:
            return True
        self._close()
        return False

    def pause_writing(self) -> None:
        """Wait with other answers until the client takes those that it was sent; not for ever."""
        self._blocked = True
        self._limit(self._server.request_timeout_s if self._parser else self._server.keep_alive_s)

    def resume_writing(self) -> None:
        """Go on."""
        self._blocked = False
        self._wake()
        if self._parser is None:
            self._stop_timer()
        elif not self._dropping:
            self._rest_until_next()
            self.advance()

    # The parser tells.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field; trailers, which come after the head, have no meaning here."""
        if self._head_done:
            self._trailers = True
        else:
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Note whether the connection may go on after this request."""
        if not self._head_done:
            self._head_done = True
            self._keep = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._body.append(body)
        self._body_bytes += len(body)
        self._head_bytes -= len(body)

    def on_message_complete(self) -> None:
        """Note the end."""
        self._complete = True

    # Requests come.

    def advance(self) -> None:
        """Take requests from what came, one after the other, as long as each is answered at once."""
        if self._gone or self._advancing:
            return
        self._advancing = True
        steps = 0
        try:
            while self._rest and not (self.busy or self._blocked or self._dropping):
                steps += 1
                if steps > STEPS_MAX:
                    self._server.loop.call_soon(self.advance)
                    break
                if self._request is None:
                    self._read_head()
                else:
                    self._read_body()
        except _Refused as refused:
            self._refuse(refused.problem)
        except (Malformed, httptools.HttpParserError):
            self._refuse(problems.MALFORMED)
        finally:
            self._advancing = False
        self._read_or_pause()

    def _read_or_pause(self) -> None:
        if self._rest:
            if not self._paused:
                self._paused = True
                self._transport.pause_reading()
        elif self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._ended and not (self.busy or self._blocked or self._rest):
            self._close()

    def _read_head(self) -> None:
        came = len(self._head)
        head = self._head + self._rest if came else self._rest
        end = head.find(HEAD_END, max(0, came - 3))
        end = len(head) if end < 0 else end + len(HEAD_END)
        self._rest, head = head[end:], head[:end]
        left = self._server.head_bytes_max - self._head_bytes
        too_long = len(head) - came > left
        self._head = head
        # What is refused, and why, does not depend on the pieces in which it comes.
        self._feed(head[came : came + left])
        if too_long:
            raise _Refused(problems.TARGET_TOO_LONG if is_line(head[: came + left]) else problems.HEAD_TOO_LARGE)
        if not self._head_done:
            self._wait_for_more()
            return
        parsed = parse_head(head, self._headers)
        self._head = b""
        self._request, self._chunked, self._left = parsed.request, parsed.chunked, parsed.length
        self._keep = self._keep and not parsed.closes
        if self._left > self._server.body_bytes_max:
            raise _Refused(problems.BODY_TOO_LARGE)
        if self._upgrade:
            # The other protocol is not offered. llhttp would leave the body to it; here it is read like any other.
            self._parser = httptools.HttpRequestParser(self)
            if self._chunked or self._left:
                self._complete = False
                self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % parsed.framing)
        if self._complete:
            self._serve()
        elif not self._rest:
            if parsed.expects_continue:
                self._transport.write(CONTINUE)
            self._wait_for_more()

    def _read_body(self) -> None:
        data, self._rest = self._rest, b""
        if not self._chunked:
            self._left -= len(data)
            if self._left < 0:
                data, self._rest = data[: self._left], data[self._left :]
            self._feed(data)
        else:
            # A chunked body can only end with the end of a line.
            start = 0
            while start < len(data) and not self._complete:
                split = self._head.endswith(b"\r") and data[start] == ord("\n")
                end = start + 1 if split else data.find(b"\r\n", start) + 2
                if end <= start + 1 and not split:
                    end = len(data)
                bytes_max = min(
                    self._server.body_bytes_max - self._body_bytes, self._server.head_bytes_max - self._head_bytes
                )
                end = min(end, start + bytes_max + 1)
                self._head = data[start:end]
                self._feed(self._head)
                start = end
                if self._body_bytes > self._server.body_bytes_max:
                    raise _Refused(problems.BODY_TOO_LARGE)
                if self._head_bytes > self._server.head_bytes_max:
                    raise _Refused(problems.HEAD_TOO_LARGE)
            self._rest = data[start:]
        if self._complete:
            self._head = b""
            self._request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)  # type: ignore[union-attr]
            self._serve()
        else:
            self._wait_for_more()

    def _feed(self, piece: bytes) -> None:
        self._head_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._upgrade = True

    # Answers go.

    def _serve(self) -> None:
        request = self._request
        assert request is not None  # noqa: S101 - for the type checker
        self.busy, self._under_way, self._deadline_s = True, False, math.inf
        request.peer = self._peer
        context = copy_context()
        server = self._server
        work: Coroutine[Any, Any, Answer | None] | None = server.app.direct(request)
        if work is None:
            self._exchange = Exchange(self, request, self._transport)
            work = self._exchange.run(server.app.framework)
        server.spawn(self._answer_with(work), context)

    async def _answer_with(self, coroutine: Coroutine[Any, Any, Answer | None]) -> None:
        try:
            answer = await coroutine
            if answer is not None:
                self.answer(answer)
        except BaseException:
            # Cancelled or failed: no other code would answer.
            self._transport.abort()
            raise
        self.advance()

    def answer(self, answer: Answer) -> None:
        """Answer the request; the connection then goes on with the next, or ends."""
        if self._gone:
            return
        request = self._request
        assert request is not None  # noqa: S101 - for the type checker
        keep = self._keep and not self._server.draining
        end = (
            b"\r\n"
            if keep and request.version == "1.1"
            else b"connection: %b\r\n\r\n" % (b"keep-alive" if keep else b"close")
        )
        self._transport.write(
            b"%b%b%b%b" % (answer.head, self._server.date, end, b"" if request.method == "HEAD" else answer.body)
        )
        self.busy = False
        self._exchange = self._request = None
        if not keep:
            self._end()
            return
        self._headers, self._body = [], []
        self._head_bytes = self._body_bytes = 0
        if self._trailers:
            # llhttp lets `Connection` in a trailer end the connection.
            self._parser = httptools.HttpRequestParser(self)
        self._head_done = self._complete = self._upgrade = self._trailers = False
        self._rest_until_next()

    def _refuse(self, problem: Answer) -> None:
        self._say(problem)
        self._end()

    def _say(self, problem: Answer) -> None:
        self._server.refused(problem)
        request = self._request
        looks = method_of(self._head) == b"HEAD" if request is None else request.method == "HEAD"
        body = b"" if looks else problem.body
        self._transport.write(b"%b%bconnection: close\r\n\r\n%b" % (problem.head, self._server.date, body))

    def _end(self) -> None:
        """Send nothing more, and drop what comes until the client ends: to close at once might cost it the answer."""
        self._dropping, self._rest, self._head, self._body = True, b"", b"", []
        if self._ended or self._transport.is_closing():
            self._close()
            return
        self._transport.write_eof()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._limit(self._server.request_timeout_s)

    def _close(self) -> None:
        """Take nothing more, and close once the client took what it was sent; not for ever."""
        self._dropping = True
        self._transport.close()
        self._limit(self._server.request_timeout_s)

    # Streams.

    def begin_stream(self, head: bytes) -> None:
        """Send the head of an answer that ends with the connection; what the client still sends is dropped."""
        self._transport.write(b"%b%bconnection: close\r\n\r\n" % (head, self._server.date))
        self._parser = self._request = None
        self._dropping, self._rest, self._headers, self._body = True, b"", [], []
        self._stop_timer()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    async def write(self, body: bytes) -> None:
        """Send a part of a stream, as soon as the client takes it."""
        while self._blocked and not self._gone:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)
        if not self._gone:
            self._transport.write(body)

    def end_stream(self) -> None:
        """End a stream after what was sent."""
        if not self._gone:
            self._end()

    # Time.

    def close_idle(self) -> bool:
        """Close unless a request is being answered, or a part of one is here: its answer ends the connection."""
        if self.busy or self._head or self._request or self._rest or self._has_unread():
            return False
        self._close()
        return True

    def give_way(self) -> bool:
        """End for the sake of another connection; not while a request is answered, or has only begun to come."""
        if self.busy or self._rest or self._blocked:
            return False
        left_s = self._deadline_s - self._server.loop.time()
        if self._dropping or (self._under_way and left_s < (1 - PATIENCE) * self._server.request_timeout_s):
            self.abort()
            return True
        return self.close_idle()

    def _has_unread(self) -> bool:
        """Whether the kernel holds bytes of the client: to close now would reset the connection under its request."""
        if self._transport.is_closing():
            return False
        count = bytearray(4)
        fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.FIONREAD, count)
        return any(count)

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def _wait_for_more(self) -> None:
        """Bound the time of a request that is not here as a whole, from its first byte."""
        if not self._under_way:
            self._under_way = True
            self._limit(self._server.request_timeout_s)

    def _rest_until_next(self) -> None:
        if not (self.busy or self._under_way or self._blocked):
            self._deadline_s = self._server.loop.time() + self._server.keep_alive_s
            if self._timer is None:
                self._limit(self._server.keep_alive_s)

    def _limit(self, seconds: float) -> None:
        self._deadline_s = self._server.loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= self._deadline_s:
                return
            self._timer.cancel()
        self._timer = self._server.loop.call_later(seconds, self._expire)

    def _stop_timer(self) -> None:
        self._deadline_s = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        """Look whether time is up: a deadline that was put off leaves its timer as it was."""
        self._timer = None
        left_s = self._deadline_s - self._server.loop.time()
        if left_s == math.inf:
            return
        if left_s > 0:
            self._timer = self._server.loop.call_later(left_s, self._expire)
        elif self._blocked or self._dropping:
            self._transport.abort()
        elif self._under_way and (self._head or self._request):
            self._refuse(problems.TOO_SLOW)
        else:
            self._close()

    def _wake(self) -> None:
        if self._waiting is not None:
            if not self._waiting.done():
                self._waiting.set_result(None)
            self._waiting = None
