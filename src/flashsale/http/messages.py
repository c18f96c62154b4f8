"""Requests as received, and answers as rendered bytes."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]

NOSNIFF = (b"x-content-type-options", b"nosniff")

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii")) for status in HTTPStatus
}


class Request:
    """A complete request."""

    __slots__ = ("body", "extra", "fields", "headers", "method", "path", "peer", "query", "tag", "version")

    def __init__(
        self, *, method: str, path: str, query: bytes, headers: Headers, version: str = "1.1", body: bytes = b""
    ) -> None:
        """Keep the parts; `path` is decoded, names of headers are in lower case."""
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.fields = dict(headers)
        """Headers by name; of several with one name, the last."""
        self.version = version
        self.peer = ""
        """The address at the other end of the connection; see `http.addresses`."""
        self.body = body
        self.extra = b""
        """Header lines that a route adds to every answer to this request."""
        self.tag = b""
        """The entity tag of the answer, if the route knows it; otherwise it is made from the body."""

    def all(self, name: bytes) -> list[bytes]:
        """Return the value of each header with this name."""
        if len(self.fields) == len(self.headers):
            return [self.fields[name]] if name in self.fields else []
        return [value for key, value in self.headers if key == name]


class Answer(NamedTuple):
    """Status, headers and body."""

    status: int
    head: bytes
    """Status line and headers as they go over the wire, each with its line end; the connection adds further headers."""
    body: bytes

    @property
    def headers(self) -> Headers:
        """Return the headers one by one."""
        fields = (line.partition(b": ") for line in self.head.split(b"\r\n")[1:-1])
        return [(name, value) for name, _, value in fields]

    def with_headers(self, *headers: tuple[bytes, bytes]) -> Answer:
        """Return a copy of the answer with more headers."""
        return self._replace(head=self.head + b"".join([b"%b: %b\r\n" % header for header in headers]))


def rendered(
    status: int, body: bytes, *headers: tuple[bytes, bytes], media_type: bytes = b"application/json"
) -> Answer:
    """Make an answer from a body and from headers other than type and length."""
    head = b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b: %b\r\n" % (
        STATUS_LINES[status],
        media_type,
        len(body),
        *NOSNIFF,
    )
    return Answer(status, head, body).with_headers(*headers) if headers else Answer(status, head, body)


def empty(status: int, *headers: tuple[bytes, bytes]) -> Answer:
    """Make an answer without a body; answers 204 and 304 have no Content-Length either."""
    length = b"" if status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED} else b"content-length: 0\r\n"
    return Answer(status, STATUS_LINES[status] + length, b"").with_headers(NOSNIFF, *headers)
