"""One HTTP/1.1 connection: each byte belongs to exactly one request, and time and memory are bounded.

`RequestReader` reads the requests. The connection answers one request before it reads the next. It refuses what
RFC 9112 does not allow, and then ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import termios
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from flashsale.http import problems
from flashsale.http.exchange import Exchange
from flashsale.http.reading import Refused, RequestReader

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from flashsale.http.contracts import ServerOfConnections
    from flashsale.http.messages import Answer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

STEPS_MAX = 64
"""Heads and bodies that a connection reads before it yields to other connections."""

PATIENCE = 0.1
"""Share of the request timeout during which an unfinished request is not closed to make room for another."""


class Connection(asyncio.BufferedProtocol):
    """A client's connection, as the event loop's transport calls it."""

    __slots__ = (
        "_advancing", "_blocked", "_deadline_s", "_dropping", "_ended", "_exchange", "_gone", "_paused", "_peer",
        "_reader", "_rest", "_server", "_timer", "_transport", "_under_way", "_waiting", "busy",
    )  # fmt: skip

    def __init__(self, server: ServerOfConnections) -> None:
        """Start without a transport; the event loop gives it one."""
        self._server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._peer = ""
        self._reader: RequestReader | None = RequestReader(
            head_bytes_max=server.head_bytes_max, body_bytes_max=server.body_bytes_max
        )
        """None once a stream has begun: then arriving bytes are dropped."""
        self._rest = b""
        """Bytes that are not parsed yet; reading pauses while there are any, so they are at most one read."""
        self._under_way = False
        """Whether the first byte of a request has arrived."""
        self.busy = False
        """Whether a request is being answered."""
        self._advancing = False
        """Whether `advance` runs: a request that is answered at once must not start it again."""
        self._blocked = self._paused = False
        """Whether the client does not read; whether reading from the client is paused."""
        self._dropping = self._ended = self._gone = False
        """Whether arriving bytes are dropped; whether the client sends no more; whether the connection is lost."""
        self._exchange: Exchange | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._deadline_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    # Calls of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request if the server has room; otherwise answer 503 and close."""
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        if self._server.take(self):
            self._wait_for_more()
        else:
            self._say(problems.FULL)
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever the reason
        """Free what the connection holds, and tell the request that is being answered."""
        self._gone = True
        self._server.forget(self)
        self._stop_timer()
        self._rest = b""
        self._wake()
        if self._exchange is not None:
            self._exchange.disconnect()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - all connections share one buffer
        """Return the buffer for the next read; `buffer_updated` copies from it at once."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that arrived."""
        if self._dropping:
            return
        data = self._server.buffer[:nbytes].tobytes()
        self._rest = self._rest + data if self._rest else data
        self.advance()

    def eof_received(self) -> bool:
        """Finish the current answer, then close: the client sends no more."""
        self._ended = True
        if self.busy and not self._dropping:
            return True
        self._close()
        return False

    def pause_writing(self) -> None:
        """Stop answering until the client has read what was sent, for a limited time."""
        self._blocked = True
        self._limit(self._server.request_timeout_s if self._reader else self._server.keep_alive_s)

    def resume_writing(self) -> None:
        """Continue: the client has read what was sent."""
        self._blocked = False
        self._wake()
        if self._reader is None:
            self._stop_timer()
        elif not self._dropping:
            self._rest_until_next()
            self.advance()

    # Reading requests.

    def advance(self) -> None:
        """Serve the requests in the bytes that arrived, one after the other, as long as each is answered at once."""
        if self._gone or self._advancing:
            return
        self._advancing = True
        steps = 0
        try:
            while self._rest and self._reader and not (self.busy or self._blocked or self._dropping):
                steps += 1
                if steps > STEPS_MAX:
                    self._server.loop.call_soon(self.advance)
                    break
                self._read(self._reader)
        except Refused as refused:
            self._refuse(refused.problem)
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

    def _read(self, reader: RequestReader) -> None:
        self._rest, complete = reader.read(self._rest)
        if complete:
            self._serve(reader)
        elif not self._rest:
            if reader.expects_continue:
                reader.expects_continue = False
                self._transport.write(CONTINUE)
            self._wait_for_more()
        else:
            # The client has begun its body, so it does not wait for a 100.
            reader.expects_continue = False

    # Writing answers.

    def _serve(self, reader: RequestReader) -> None:
        request = reader.request
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
            # Cancelled or failed: nobody else would answer this request.
            self._transport.abort()
            raise
        self.advance()

    def answer(self, answer: Answer) -> None:
        """Send the answer; then wait for the next request, or end the connection."""
        if self._gone:
            return
        reader = self._reader
        assert reader is not None  # noqa: S101 - for the type checker
        request = reader.request
        assert request is not None  # noqa: S101 - for the type checker
        keep = reader.keeps and not self._server.draining
        end = (
            b"\r\n"
            if keep and request.version == "1.1"
            else b"connection: %b\r\n\r\n" % (b"keep-alive" if keep else b"close")
        )
        self._transport.write(
            b"%b%b%b%b" % (answer.head, self._server.date, end, b"" if request.method == "HEAD" else answer.body)
        )
        self.busy = False
        self._exchange = None
        reader.begin_next()
        if not keep:
            self._end()
            return
        self._rest_until_next()

    def _refuse(self, problem: Answer) -> None:
        self._say(problem)
        self._end()

    def _say(self, problem: Answer) -> None:
        self._server.refused(problem)
        body = b"" if self._reader is not None and self._reader.is_head else problem.body
        self._transport.write(b"%b%bconnection: close\r\n\r\n%b" % (problem.head, self._server.date, body))

    def _end(self) -> None:
        """Send no more, and drop what arrives until the client closes: closing at once could lose the answer."""
        self._dropping, self._rest = True, b""
        if self._reader is not None:
            self._reader.begin_next()
        if self._ended or self._transport.is_closing():
            self._close()
            return
        self._transport.write_eof()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._limit(self._server.request_timeout_s)

    def _close(self) -> None:
        """Close as soon as the client has read what was sent, or after the time limit."""
        self._dropping = True
        self._transport.close()
        self._limit(self._server.request_timeout_s)

    # Streams.

    def begin_stream(self, head: bytes) -> None:
        """Send the head of a stream, which lasts as long as the connection; drop what the client sends."""
        self._transport.write(b"%b%bconnection: close\r\n\r\n" % (head, self._server.date))
        self._reader = None
        self._dropping, self._rest = True, b""
        self._stop_timer()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    async def write(self, body: bytes, *, limited: bool = False) -> None:
        """Send a part of a stream once the client has read the parts before it.

        `limited`: reset the connection if that takes longer than a request may.
        """
        if self._blocked and limited:
            self._limit(self._server.request_timeout_s)
        while self._blocked and not self._gone:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)
        if limited:
            self._stop_timer()
        if not self._gone:
            self._transport.write(body)

    def end_stream(self) -> None:
        """End a stream after the parts that were sent."""
        if not self._gone:
            self._end()

    # Time limits.

    def close_idle(self) -> bool:
        """Close, unless a request is being read or answered; then the connection ends after that answer."""
        if self.busy or self._rest or self._has_begun() or self._has_unread():
            return False
        self._close()
        return True

    def give_way(self) -> bool:
        """Close to make room for another connection, unless a request is being answered or has just begun to arrive."""
        if self.busy or self._rest or self._blocked:
            return False
        left_s = self._deadline_s - self._server.loop.time()
        if self._dropping or (self._under_way and left_s < (1 - PATIENCE) * self._server.request_timeout_s):
            self.abort()
            return True
        return self.close_idle()

    def _has_begun(self) -> bool:
        return self._reader is not None and self._reader.has_begun

    def _has_unread(self) -> bool:
        """Whether the kernel holds unread bytes: closing now would reset the connection and lose that request."""
        if self._transport.is_closing():
            return False
        count = bytearray(4)
        fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.FIONREAD, count)
        return any(count)

    def abort(self) -> None:
        """Reset the connection."""
        self._transport.abort()

    def _wait_for_more(self) -> None:
        """Limit the time from the first byte of a request until the request is complete."""
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
        """Act if the deadline has passed. A later deadline does not move the timer, so it may fire too early."""
        self._timer = None
        left_s = self._deadline_s - self._server.loop.time()
        if left_s == math.inf:
            return
        if left_s > 0:
            self._timer = self._server.loop.call_later(left_s, self._expire)
        elif self._blocked or self._dropping:
            self._transport.abort()
        elif self._under_way and self._has_begun():
            self._refuse(problems.TOO_SLOW)
        else:
            self._close()

    def _wake(self) -> None:
        if self._waiting is not None:
            if not self._waiting.done():
                self._waiting.set_result(None)
            self._waiting = None
