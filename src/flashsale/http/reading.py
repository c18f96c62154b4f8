"""Reads requests one after another from the bytes of a connection.

httptools' llhttp parses. It gets no byte beyond the end of a head or body, so requests never mix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools

from flashsale.http import problems
from flashsale.http.heads import Malformed, is_line, method_of, parse_head

if TYPE_CHECKING:
    from flashsale.http.messages import Answer, Headers, Request

HEAD_END = b"\r\n\r\n"


class Refused(Exception):
    """The bytes are no request that this server accepts."""

    def __init__(self, problem: Answer) -> None:
        """Refuse with a problem."""
        super().__init__()
        self.problem = problem


class RequestReader:
    """Reads requests; the caller takes each before the next is read."""

    __slots__ = (
        "_body", "_body_bytes", "_body_bytes_max", "_chunked", "_complete", "_head", "_head_bytes", "_head_bytes_max",
        "_head_done", "_headers", "_left", "_parser", "_trailers", "_upgrade", "expects_continue", "keeps", "request",
    )  # fmt: skip

    def __init__(self, *, head_bytes_max: int, body_bytes_max: int) -> None:
        """Limit heads and bodies to these sizes."""
        self._head_bytes_max = head_bytes_max
        self._body_bytes_max = body_bytes_max
        self._parser: Any = httptools.HttpRequestParser(self)
        self._head = b""
        """The part of a head that came in reads before."""
        self._headers: Headers = []
        self._head_bytes = self._body_bytes = self._left = 0
        """Bytes of the current request: outside of its body, in its body, and of its body that have not arrived."""
        self._head_done = self._complete = self._chunked = self._upgrade = self._trailers = False
        self._body: list[bytes] = []
        self.request: Request | None = None
        """The request whose head is read."""
        self.keeps = True
        """Whether the connection may go on after this request."""
        self.expects_continue = False
        """Whether the client waits for a 100 before it sends the body."""

    @property
    def has_begun(self) -> bool:
        """Whether a part of a request has arrived."""
        return bool(self._head) or self.request is not None

    @property
    def is_head(self) -> bool:
        """Whether the request asks for no body."""
        return method_of(self._head) == b"HEAD" if self.request is None else self.request.method == "HEAD"

    def read(self, data: bytes) -> tuple[bytes, bool]:
        """Read one step, a head or a body. Returns the bytes beyond it, and whether the request is complete.

        Raises:
            Refused: if the bytes are no request that this server accepts.
        """
        try:
            rest = self._read_head(data) if self.request is None else self._read_body(data)
        except (Malformed, httptools.HttpParserError):
            raise Refused(problems.MALFORMED) from None
        return rest, self._complete and self.request is not None

    def begin_next(self) -> None:
        """Drop the answered or refused request."""
        self.request, self._head = None, b""
        self._headers, self._body = [], []
        self._head_bytes = self._body_bytes = 0
        if self._trailers:
            # llhttp would let a `Connection` field in a trailer end the connection.
            self._parser = httptools.HttpRequestParser(self)
        self._head_done = self._complete = self._upgrade = self._trailers = self.expects_continue = False

    # The parser calls these methods.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field; trailers, which come after the head, have no meaning here."""
        if self._head_done:
            self._trailers = True
        else:
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Record whether the connection may continue after this request."""
        if not self._head_done:
            self._head_done = True
            self.keeps = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Store a part of the body."""
        self._body.append(body)
        self._body_bytes += len(body)
        self._head_bytes -= len(body)

    def on_message_complete(self) -> None:
        """Record the end of the request."""
        self._complete = True

    def _read_head(self, data: bytes) -> bytes:
        came = len(self._head)
        head = self._head + data if came else data
        end = head.find(HEAD_END, max(0, came - 3))
        end = len(head) if end < 0 else end + len(HEAD_END)
        rest, head = head[end:], head[:end]
        left = self._head_bytes_max - self._head_bytes
        too_long = len(head) - came > left
        self._head = head
        # Feed at most the limit, so that a refusal and its reason do not depend on how the bytes were split.
        self._feed(head[came : came + left])
        if too_long:
            raise Refused(problems.TARGET_TOO_LONG if is_line(head[: came + left]) else problems.HEAD_TOO_LARGE)
        if not self._head_done:
            return rest
        parsed = parse_head(head, self._headers)
        self._head = b""
        self.request, self._chunked, self._left = parsed.request, parsed.chunked, parsed.length
        self.keeps = self.keeps and not parsed.closes
        self.expects_continue = parsed.expects_continue
        if self._left > self._body_bytes_max:
            raise Refused(problems.BODY_TOO_LARGE)
        if self._upgrade:
            # This server offers no upgrade. llhttp would leave the body to the new protocol, so a new parser reads it.
            self._parser = httptools.HttpRequestParser(self)
            if self._chunked or self._left:
                self._complete = False
                self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % parsed.framing)
        return rest

    def _read_body(self, data: bytes) -> bytes:
        if self._chunked:
            rest = self._read_chunks(data)
        else:
            self._left -= len(data)
            data, rest = (data[: self._left], data[self._left :]) if self._left < 0 else (data, b"")
            self._feed(data)
        if self._complete:
            self._head = b""
            self.request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)  # type: ignore[union-attr]
        return rest

    def _read_chunks(self, data: bytes) -> bytes:
        # A chunked body can only end at the end of a line, so feed it line by line.
        start = 0
        while start < len(data) and not self._complete:
            split = self._head.endswith(b"\r") and data[start] == ord("\n")
            end = start + 1 if split else data.find(b"\r\n", start) + 2
            if end <= start + 1 and not split:
                end = len(data)
            bytes_max = min(self._body_bytes_max - self._body_bytes, self._head_bytes_max - self._head_bytes)
            end = min(end, start + bytes_max + 1)
            self._head = data[start:end]
            self._feed(self._head)
            start = end
            if self._body_bytes > self._body_bytes_max:
                raise Refused(problems.BODY_TOO_LARGE)
            if self._head_bytes > self._head_bytes_max:
                raise Refused(problems.HEAD_TOO_LARGE)
        return data[start:]

    def _feed(self, piece: bytes) -> None:
        self._head_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._upgrade = True
