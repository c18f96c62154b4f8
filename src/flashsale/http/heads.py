"""The head of a request: checks of errors that llhttp accepts."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from flashsale.http.messages import Request

if TYPE_CHECKING:
    from flashsale.http.messages import Headers

_LINE = re.compile(rb"(?:\r\n)*([A-Z-]+) ([!-~]+) HTTP/1\.([01])\r\n")
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})*+)(?::[0-9]*)?")
_SINGLE = frozenset({b"host", b"authorization", b"idempotency-key", b"origin"})
"""Fields that may occur once: of two, a proxy might use one and this server the other."""
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)([^#]*)", re.IGNORECASE)


class Malformed(Exception):
    """RFC 9112 does not allow this request, or the request uses an option that this server does not have."""


class Head(NamedTuple):
    """A request without its body, and how the body is framed."""

    request: Request
    length: int
    chunked: bool
    expects_continue: bool
    closes: bool
    """Whether the client asks for the end of the connection after this request."""

    @property
    def framing(self) -> bytes:
        """Return the field that says where the body ends."""
        return b"transfer-encoding: chunked" if self.chunked else b"content-length: %d" % self.length


def parse_head(head: bytes, headers: Headers) -> Head:
    """Build a request from a head and its fields.

    llhttp has checked the syntax of lines and fields, that there is at most one Content-Length, of digits, and that it
    does not appear together with Transfer-Encoding.

    Raises:
        Malformed: if the head has another error.
    """
    line = _LINE.match(head)
    if line is None:
        raise Malformed
    method, target, minor = line.groups()
    path, query = _target(method, target)
    request = Request(
        method=method.decode("ascii"),
        path=path,
        query=query,
        headers=headers,
        version="1.1" if minor == b"1" else "1.0",
    )
    fields = request.fields
    host = fields.get(b"host")
    if host is None:
        if minor == b"1":
            raise Malformed
    else:
        _check_host(host)
    if len(fields) != len(headers):
        _check_single(headers)
    chunked = b"transfer-encoding" in fields
    if chunked and (minor == b"0" or [value.lower() for value in request.all(b"transfer-encoding")] != [b"chunked"]):
        raise Malformed
    length = int(fields.get(b"content-length", b"0"))
    expects_continue = minor == b"1" and fields.get(b"expect", b"").lower() == b"100-continue"
    return Head(request, length, chunked, expects_continue, b"connection" in fields and _closes(request))


def _closes(request: Request) -> bool:
    """Say whether `close` is among the options of `Connection`; llhttp prefers `keep-alive` in HTTP/1.0."""
    options = b",".join(request.all(b"connection")).lower().split(b",")
    return any(option.strip(b" \t") == b"close" for option in options)


def method_of(head: bytes) -> bytes:
    """Return the method of a head that may be incomplete."""
    return head.lstrip(b"\r\n").partition(b" ")[0]


def is_line(head: bytes) -> bool:
    """Say whether `head` is an unfinished request line."""
    line = head.lstrip(b"\r\n")
    return bool(line) and b"\r\n" not in line


def _target(method: bytes, target: bytes) -> tuple[str, bytes]:
    """Return the path, decoded, and the query."""
    if target == b"*" and method == b"OPTIONS":
        return "*", b""
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or method == b"CONNECT" or absolute[1].startswith(b":"):
            raise Malformed
        _check_host(absolute[1])
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    elif b"#" in target or method == b"CONNECT":
        raise Malformed
    path, _, query = target.partition(b"?")
    text = path.decode("ascii")
    if "%" in text:
        # An escaped slash is data, not a separator (RFC 3986, 2.2), so it stays escaped.
        text = unquote(re.sub("%(?=2[fF])", "%25", text))
    return text, query


def _check_single(headers: Headers) -> None:
    seen = set()
    for name, _ in headers:
        if name in _SINGLE:
            if name in seen:
                raise Malformed
            seen.add(name)


def _check_host(host: bytes) -> None:
    valid = _HOST.fullmatch(host)
    if valid is None:
        raise Malformed
    if valid[1] is not None:
        try:
            IPv6Address(valid[1].decode("ascii"))
        except ValueError:
            raise Malformed from None
