"""Requests: valid ones, those that are nearly valid, and the known forms of smuggling, pipelined and mixed by a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

VALUES = {
    "length": [b"+%d", b"-%d", b"0%d", b"00000000000%d", b" %d", b"%d ", b"%d\t", b"\x0b%d", b"%d\x0c",
               b"%d %d", b"%d,%d", b"%d, 6", b"0x%x", b"%d.0", b"%de0", b"", b"99999999999999999999", b"18446744073709551616",
               b"%d\x00", b"\xd9\xa5", b"1_0", b'"%d"', b"%d;", b"2049", b"4097", b"\xc2\xa0%d"],
    "coding": [b"Chunked", b"CHUNKED", b"xchunked", b"chunkedx", b"chunked, identity", b"identity, chunked", b"gzip, chunked",
               b"chunked, gzip", b"chunked, chunked", b"identity", b"gzip", b"", b",chunked", b"chunked,", b"chunked;q=1",
               b'"chunked"', b"chunked chunked", b"chunked\x0b", b"\x0bchunked", b"chunked\x00", b"\x00chunked", b"chu\x00nked",
               b"\xffchunked", b"chunked\r\n ", b"\r\n chunked", b"chunked\r", b"\rchunked", b"chunked\n", b"\tchunked\t",
               b"chunked\xa0", b"cow", b"ch\xc5\xabnked"],
    "size": [b"+%x", b"-%x", b"0x%x", b"%x ", b" %x", b"%x\t", b"0000%x", b"000000000000%x", b"%x;a", b"%x;a=b", b'%x;a="b;c"',
             b'%x;a="\\""', b"%x;", b"%x;;", b"%x ;a", b"%x; a=b", b"%x;a = b", b"%x;a=b\nX", b'%x;a="\r\n"', b"%x;a\rb", b"%x;\x00",
             b"%x\x0b", b"%xg", b"", b"g", b"ffffffffffffffff", b"fffffffffffffffff", b"10000000000000000%x", b"%x,%x", b"%x.0", b"\xd9%x",
             b"%x;a=\xff", b'%x;a="\xff"', b"%X", b"%x\r\n\r\n", b"1000"],
    "host": [b"", b"x:80", b"x:", b"x:y", b"x:80:80", b"[::1]", b"[::1]:80", b"[::1", b"::1", b"[:::]", b"[1]", b"[v1.x]", b"x y", b"x/y",
             b"x@y", b"x,y", b"x%41", b"x%4", b"%", b"x?y", b"x#y", b"http://x", b"\xc3\xa9", b"x\x00", b"x\ty", b":80", b"x\\y", b"[::1%25lo]"],
    "version": [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"http/1.1", b"HTTP/1.1 ", b" HTTP/1.1", b"HTTP/01.1",
                b"HTTP/1.10", b"HTTP/1", b"HTTP/1.", b"HTTP/ 1.1", b"HTTP /1.1", b"HTTP/1,1", b"HTTP/+1.1", b"HTTP/1.1\x00", b"\tHTTP/1.1", b"",
                b"ICE/1.0", b"RTSP/1.0", b"HTTPS/1.1", b"HTTP/1.1 HTTP/1.1", b"HTTP/1.1\r"],
    "method": [b"get", b"G", b"GETT", b"GET\x00", b"G@T", b"PRI", b"CONNECT", b"TRACE", b"SOURCE", b"FOO", b"", b" GET", b"\tGET", b"GET ", b"M-SEARCH",
               b"HEAD", b"OPTIONS", b"DESCRIBE", b"PROPFIND", b"(GET)", b"GE\nT", b"\xffGET", b"DELETE", b"PUT", b"PATCH"],
    "target": [b"*", b"x", b"x:80", b"http://x%b", b"HTTP://x:80%b", b"http://x", b"http://x?%b", b"https://x%b", b"ftp://x%b", b"http:///%b",
               b"http://:80%b", b"http://", b"http://u@x%b", b"http://[::1]%b", b"http://[::%b", b"http://x y%b", b"http:%b", b"/%b", b"//x%b",
               b"%b?a=b", b"%b?a?b", b"%b#c", b"%b?#", b"%b%%00", b"%b%%zz", b"%b%%", b"%b\x00", b"%b\x80", b"%b\xc3\xa9", b"%b\x7f", b'%b"<>\\^`{|}',
               b"%b b", b"%b\tb", b"%b\rb", b"%b\nb", b"/..%b", b"%b/../x", b"", b"?a", b"\\%b", b"%b;a=b", b"/%%2f%b", b"ws://x%b", b"http://x#%b"],
    "name": [b"Content-Length ", b"Content-Length\t", b" Content-Length", b"\tContent-Length", b"Content_Length", b"Content-Length\x00", b"Content-\nLength",
             b"Content-Length\r", b"Content Length", b"Transfer-Encoding ", b"Transfer_Encoding", b"Transfer-Encoding\x0b", b"\x00Transfer-Encoding",
             b"Transfer-Encoding:", b"Transfer\r\n-Encoding", b"", b":", b"X\xff", b"X\x7f", b"X(", b'X"', b"X/", b"x y", b'"X"', b"@", b"X\x1f"],
    "value": [b"\x00", b"a\x00b", b"\x01", b"a\x7fb", b"a\x1bb", b"\xff\xfe", b"a\rb", b"a\nb", b"a\r\n b", b"a\r\n\tb", b"\r\n b", b"a\r\rb", b"a\x0bb", b"a\x0cb",
              b" \t a \t ", b"", b"\t", b"a:b", b"a\r\n", b"a\n\r", b"\xc2\x85", b"\x85", b"\xe2\x80\xa8", b"\x08", b"a\r\nX"],
    "connection": [b"close", b"keep-alive", b"Close", b"close, x", b"x,close", b"x, Close", b"closed", b"keep-alive, close", b"close, keep-alive", b"Upgrade", b"upgrade, close",
                   b"Upgrade, HTTP2-Settings", b"Content-Length", b"Transfer-Encoding", b"Host", b"", b",,close", b"\tclose\t", b'"close"', b"close;x", b"keep-alive,", b"proxy-connection"],
    "other": [b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA", b"Upgrade: websocket\r\nConnection: Upgrade",
              b"Upgrade: TLS/1.0\r\nConnection: Upgrade", b"Upgrade: h2c", b"Connection: Upgrade", b"Connection: close\r\nConnection: keep-alive",
              b"Connection: keep-alive\r\nConnection: close", b"Proxy-Connection: close", b"Expect: 100-continue", b"Expect: 100-Continue", b"Expect: x",
              b"Expect: 100-continue, x", b"Expect:", b"TE: trailers", b"TE: chunked", b"Trailer: Content-Length", b"Trailer: X-Id\r\nTE: trailers\r\nConnection: TE",
              b"Keep-Alive: timeout=1", b"Upgrade: h2c\r\nConnection: upgrade, close", b"X-Many: 1\r\n" * 30 + b"X: 1", b"Content-Encoding: gzip", b"Content-Type: multipart/byteranges"],
    "before": [b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"\r\n \r\n", b"\r\n" * 20, b"\xef\xbb\xbf", b"\r\r\n", b"0\r\n\r\n"],
    "whole": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET /smuggled\r\n\r\n", b"GET /smuggled\n\n", b"\r\n\r\n",
              b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET", b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n", b"$1\r\nx\r\n",
              b"HEAD / HTTP/1.1\r\n\r\n", b"HEAD /r HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"],
    "trailer": [b"Authorization: Bearer x\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n", b"X-Id: 7\r\n", b"x\r\n", b"X : y\r\n", b" X: y\r\n",
                b"X: y\r\n z\r\n", b"X: y\nZ: a\r\n", b"X: \x00\r\n", b": x\r\n", b"X: y\r\n" * 20, b"\n", b"X: a\rb\r\n", b"Connection: close\r\n"],
    "line end": [b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b"\x00\r\n", b"\r\n ", b"\r\n\t", b"\x0b\r\n", b"\xc2\x85"],
}  # fmt: skip
"""What stands where one thing is expected."""

KINDS = (
    *VALUES,
    "length twice",
    "codings twice",
    "both framings",
    "after a chunk",
    "after the last chunk",
    "a byte",
    "cut",
    "long",
)


@dataclass(slots=True)
class Draft:
    """A request whose parts can be spoilt before they are put together."""

    path: bytes
    method: bytes = b"GET"
    target: bytes = b""
    version: bytes = b"HTTP/1.1"
    host: bytes = b"x"
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    framing: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    before: bytes = b""
    other: bytes = b""
    end: bytes = b"\r\n"
    """The end of one line of the head, at `end_at`."""
    end_at: int = -1

    def rendered(self) -> bytes:
        """Return its bytes."""
        lines = [b"%b %b %b" % (self.method, self.target or self.path, self.version), b"Host: %b" % self.host]
        lines += [b"%b: %b" % one for one in (*self.fields, *self.framing)]
        lines += [self.other] if self.other else []
        ends = [b"\r\n"] * len(lines)
        ends[self.end_at % len(ends)] = self.end
        return self.before + b"".join(a + b for a, b in zip(lines, ends, strict=True)) + b"\r\n" + self.body


class Grammar:
    """Makes what a client sends over one connection."""

    def __init__(self, random_: random.Random) -> None:
        """Draw from this source alone."""
        self._random = random_
        self._number = 0

    def case(self) -> tuple[str, bytes]:
        """Return a kind and bytes: one to four requests, of which at most one is spoilt, seldom twice."""
        random_ = self._random
        count = random_.choice((1, 2, 2, 3, 4))
        spoilt = random_.randrange(count)
        kind = random_.choice(("valid", *KINDS))
        parts = []
        for place in range(count):
            draft = self._valid()
            if place == spoilt and kind != "valid":
                if random_.random() < 0.2:
                    self._spoil(draft, random_.choice(KINDS))
                parts.append(self._spoil(draft, kind))
            else:
                parts.append(draft.rendered())
        return kind, b"".join(parts)

    def _valid(self) -> Draft:
        random_ = self._random
        self._number += 1
        draft = Draft(b"/r%d" % self._number)
        draft.fields = [(b"X-Id", b"%d" % self._number)] + [(b"Accept", b"*/*")] * random_.randrange(2)
        framing = random_.choice(("none", "length", "chunks"))
        draft.method = random_.choice(
            (b"GET", b"HEAD", b"DELETE", b"OPTIONS") if framing == "none" else (b"POST", b"PUT", b"PATCH", b"GET")
        )
        if framing == "length":
            self._with_length(draft)
        elif framing == "chunks":
            self._in_chunks(draft)
        return draft

    def _content(self) -> bytes:
        random_ = self._random
        return random_.choice((
            b"", b"{}", SMUGGLED, b"0\r\n\r\n" + SMUGGLED, b"\r\n\r\n", SMUGGLED * 3, random_.randbytes(random_.randrange(1, 60)), b"x" * 700,
        ))  # fmt: skip

    def _with_length(self, draft: Draft) -> None:
        draft.body = self._content()
        draft.framing = [(b"Content-Length", b"%d" % len(draft.body))]

    def _in_chunks(
        self, draft: Draft, *, size: bytes = b"%x", after: bytes = b"\r\n", last: bytes = b"0\r\n", trailer: bytes = b""
    ) -> None:
        random_ = self._random
        content = self._content()
        parts = []
        while content:
            length = min(len(content), random_.choice((1, 2, 5, 16, 500)))
            parts.append(_filled(size, length) + b"\r\n" + content[:length] + after)
            content = content[length:]
            if not random_.randrange(3):
                size, after = b"%x", b"\r\n"
        draft.body = b"".join(parts) + last + trailer + b"\r\n"
        draft.framing = [(b"Transfer-Encoding", b"chunked")]

    def _spoil(self, draft: Draft, kind: str) -> bytes:  # noqa: C901, PLR0912, PLR0915 - one branch for each kind
        random_ = self._random
        value = random_.choice(VALUES.get(kind, [b""]))
        if draft.method in {b"GET", b"HEAD", b"DELETE", b"OPTIONS"} and kind in {"length", "coding", "size", "trailer"}:
            draft.method = b"POST"
        if kind == "length":
            self._with_length(draft)
            draft.framing = [(b"Content-Length", _filled(value, len(draft.body)))]
        elif kind == "coding":
            self._in_chunks(draft)
            draft.framing = [(b"Transfer-Encoding", value)]
        elif kind == "size":
            self._in_chunks(draft, size=value)
        elif kind == "trailer":
            self._in_chunks(draft, trailer=value)
        elif kind == "after a chunk":
            self._in_chunks(
                draft, after=random_.choice((b"\n", b"\r", b"", b"x\r\n", b"\r\r\n", b"\r\n\r\n", b" \r\n"))
            )
        elif kind == "after the last chunk":
            self._in_chunks(
                draft,
                last=random_.choice(
                    (b"0\n", b"0\r", b"0", b"00\r\n", b"0;a=b\r\n", b"-0\r\n", b"0x0\r\n", b"0 \r\n", b"0\r\n\r\n0\r\n")
                ),
            )
        elif kind in {"host", "version", "method", "other", "before"}:
            setattr(draft, kind, value)
        elif kind == "target":
            draft.target = value.replace(b"%b", draft.path).replace(b"%%", b"%")
        elif kind == "name":
            self._with_length(draft)
            known = draft.framing[0][1] if b"ength" in value else b"chunked"
            draft.framing = ([] if random_.randrange(2) else draft.framing) + [(value, known)]
        elif kind == "value":
            draft.fields.append((b"X", value))
        elif kind == "connection":
            draft.fields.append((b"Connection", value))
        elif kind == "line end":
            draft.end, draft.end_at = value, random_.randrange(8)
        elif kind == "length twice":
            self._with_length(draft)
            draft.framing.append(
                (
                    random_.choice((b"Content-Length", b"content-length")),
                    b"%d" % random_.choice((0, 5, len(draft.body))),
                )
            )
        elif kind == "codings twice":
            self._in_chunks(draft)
            draft.framing.insert(random_.randrange(2), (b"Transfer-encoding", random_.choice(VALUES["coding"])))
        elif kind == "both framings":
            self._in_chunks(draft)
            length = (b"Content-Length", random_.choice((b"0", b"3", b"%d" % len(draft.body))))
            draft.framing.insert(random_.randrange(2), length)
            if not random_.randrange(3):
                draft.framing = [
                    (name, random_.choice(VALUES["coding"]) if name != b"Content-Length" else coding)
                    for name, coding in draft.framing
                ]
        if kind == "whole":
            return value
        if kind == "long":
            return self._long(draft)
        sent = draft.rendered()
        if kind == "a byte":
            place = random_.randrange(len(sent))
            byte = random_.choice(
                (
                    b"\x00",
                    b"\r",
                    b"\n",
                    b" ",
                    b"\t",
                    b":",
                    b"0",
                    b"\x7f",
                    b"\x80",
                    b";",
                    b",",
                    random_.randbytes(1),
                    b"",
                )
            )
            return sent[:place] + byte + sent[place + random_.randrange(2) :]
        if kind == "cut":
            return sent[: random_.randrange(len(sent))]
        return sent

    def _long(self, draft: Draft) -> bytes:
        random_ = self._random
        what = random_.choice(("target", "field", "fields", "body", "chunks", "name", "trailer", "method", "lines"))
        if what == "target":
            draft.target = draft.path + b"?" + b"x" * random_.choice((1_000, 3_000))
        elif what == "field":
            draft.fields.append((b"X", b"y" * random_.choice((1_000, 3_000))))
        elif what == "name":
            draft.fields.append((b"X" * random_.choice((1_000, 3_000)), b"y"))
        elif what == "fields":
            draft.fields += [(b"X", b"y")] * random_.choice((100, 500))
        elif what == "method":
            draft.method = b"G" * 3_000
        elif what == "lines":
            draft.before = b"\r\n" * random_.choice((500, 1_500))
        elif what == "trailer":
            self._in_chunks(draft, trailer=b"X: y\r\n" * 100)
        else:
            draft.method, draft.body = b"POST", b"x" * random_.choice((4_096, 4_097, 9_000))
            draft.framing = [(b"Content-Length", b"%d" % len(draft.body))]
            if what == "chunks":
                draft.framing = [(b"Transfer-Encoding", b"chunked")]
                draft.body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(draft.body), draft.body)
        return draft.rendered()


def _filled(form: bytes, number: int) -> bytes:
    return form % ((number,) * (form.count(b"%x") + form.count(b"%d") + form.count(b"%X")))


def cuts(random_: random.Random, sent: bytes) -> list[bytes]:
    """Cut what is sent at random places."""
    places = sorted({0, len(sent), *(random_.randrange(len(sent) + 1) for _ in range(random_.choice((1, 2, 5, 20))))})
    return [sent[a:b] for a, b in pairwise(places)]
