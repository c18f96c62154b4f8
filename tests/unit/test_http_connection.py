"""One connection, over sockets, on the loop that serves: its limits, and whose bytes are whose."""

import asyncio
import contextlib
import functools
import json
import os
import socket
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import uvloop

from flashsale.http.messages import rendered
from flashsale.http.server import READ_BYTES, Server
from flashsale.settings.edge import HttpSettings

HEAD_MAX, BODY_MAX, TIMEOUT_S = 2048, 4096, 0.8
HOST = b"Host: x\r\n"
FLOOD = {"/flood": 1_000_000}
ANSWERS: dict[str, tuple[int, list[tuple[bytes, bytes]], list[bytes]]] = {
    "/longer": (200, [(b"content-length", b"2")], [b"three", b"four"]),
    "/shorter": (200, [(b"Content-Length", b"999")], [b"x"]),
    "/twice": (200, [(b"content-length", b"1"), (b"content-length", b"2")], [b"xyz"]),
    "/chunked": (200, [(b"transfer-encoding", b"chunked")], [b"0\r\n\r\n"]),
    "/nothing": (204, [(b"content-length", b"5")], [b"hello"]),
    "/same": (304, [], [b"HTTP/1.1 200 OK\r\n\r\n"]),
    "/split": (200, [(b"x", b"y\r\ncontent-length: 0")], []),
}
"""Answers of a framework that is wrong about their bodies."""


class App:
    """Answers with the method and the body's length; /slow after the time limit; /hold, a stream, not before its client
    goes; /flood with a megabyte; /size/n with n bytes; /async as / does, but after a wait; /framework through ASGI.
    """

    server: Server
    address: tuple[str, int]

    def __init__(self):
        self.gone = asyncio.Event()
        self.held = asyncio.Event()
        self.served = []

    def direct(self, request):
        self.served.append((request.method, request.path, request.body, request.headers))
        if request.path in {"/hold", "/hold-utf-8", "/framework", *ANSWERS}:
            return None
        return self.answer(request)

    async def answer(self, request):
        if request.path == "/cancelled":
            raise asyncio.CancelledError
        if request.path == "/broken":
            raise ZeroDivisionError
        if request.path == "/slow":
            await asyncio.sleep(1.9 * TIMEOUT_S)
        elif request.path != "/":
            async with asyncio.timeout(60):
                await asyncio.sleep(0)
        size = int(
            request.path.removeprefix("/size/") if request.path.startswith("/size/") else FLOOD.get(request.path, 0)
        )
        return rendered(200, b"x" * size or b"%d" % len(request.body))

    def refused(self, problem):
        pass

    async def framework(self, scope, receive, send):
        if scope["path"] in ANSWERS:
            status, headers, parts = ANSWERS[scope["path"]]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        if scope["path"] == "/framework":
            body = (await receive())["body"]
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"%d" % len(body)})
            assert (await receive())["type"] == "http.disconnect"
            return
        # A framework may add a parameter to the media type.
        parameter = b"; charset=utf-8" if scope["path"] == "/hold-utf-8" else b""
        headers = [(b"content-type", b"text/event-stream" + parameter)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        self.held.set()
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        self.gone.set()


@asynccontextmanager
async def serving():
    """Return the app and a function that connects to it."""
    app, clients = App(), []
    settings = HttpSettings(head_bytes_max=HEAD_MAX, body_bytes_max=BODY_MAX, request_timeout_s=TIMEOUT_S)
    server = Server(app, settings)
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    await server.listen(sock)

    async def connect(sent=b""):
        reader, writer = await asyncio.open_connection(*address)
        clients.append(writer)
        writer.write(sent)
        return reader, writer

    app.server, app.address = server, address
    try:
        yield app, connect
    finally:
        for writer in clients:
            writer.close()
        await server.stop(leave_s=0, finish_s=0.1)


def over_sockets(test):
    """Run a test on the loop that serves, for at most a minute."""

    @functools.wraps(test)
    def run(**arguments):
        async def bounded():
            async with asyncio.timeout(60), serving() as (app, connect):
                await test(app, connect, **arguments)

        uvloop.run(bounded())

    del run.__wrapped__
    return run


async def answer(reader):
    """Read one answer; returns its status, headers and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode().strip().split("\r\n")
    assert first.startswith("HTTP/1.1 "), first
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def refused(reader, status, code):
    """Read a problem and the end of the connection."""
    got, headers, body = await answer(reader)
    document = json.loads(body)
    assert (got, document["status"], document["code"]) == (status, status, code)
    assert (headers["content-type"], headers["connection"]) == ("application/problem+json", "close")
    assert await reader.read() == b""


def head_of(size):
    start, end = b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"\r\n\r\n"
    return start + b"x" * (size - len(start + end)) + end


@over_sockets
async def test_a_head_may_be_as_long_as_the_limit_and_no_longer(_app, connect):
    reader, writer = await connect(head_of(HEAD_MAX))
    assert (await answer(reader))[0] == 200
    writer.write(head_of(HEAD_MAX + 1))
    await refused(reader, 431, "head_too_large")


GET_X = b"GET / HTTP/1.1\r\n" + HOST
TOO_LONG = {
    "a request line": b"GET /" + b"x" * HEAD_MAX + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a request line without an end": b"GET /" + b"x" * HEAD_MAX,
    "a field": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * HEAD_MAX + b"\r\n\r\n",
    "a field without an end": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * HEAD_MAX,
    "a name without an end": b"GET / HTTP/1.1\r\n" + HOST + b"x" * HEAD_MAX,
    "many fields": b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * HEAD_MAX + b"\r\n",
    "empty lines": b"\r\n" * HEAD_MAX,
    "trailers": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * HEAD_MAX,
    "extensions of chunks": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1;x=" + b"x" * HEAD_MAX,
}
LONG_TARGETS = {"a request line", "a request line without an end"}


@pytest.mark.parametrize("what", TOO_LONG)
def test_a_head_that_is_too_long_is_refused_wherever_it_is_long(what):
    sent = TOO_LONG[what]

    @over_sockets
    async def refuses(_app, connect):
        reader, writer = await connect(sent)
        # The rest of what the client meant to send does not reset the connection before it can read the answer.
        writer.write(sent[-1:] * 1_000_000)
        await refused(reader, *((414, "target_too_long") if what in LONG_TARGETS else (431, "head_too_large")))

    refuses()


CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
TWICE_WRONG = {
    "a head, wrong before the limit": (GET_X + b"X : y\r\nX: " + b"x" * HEAD_MAX + b"\r\n\r\n", 400),
    "a head, wrong after the limit": (GET_X + b"X: " + b"x" * HEAD_MAX + b"\r\nX : y\r\n\r\n", 431),
    "a body, wrong before the limit": (CHUNKED + b"x\r\n" + b"x" * BODY_MAX * 2, 400),
    "a body, wrong after the limit": (CHUNKED + b"ffff\r\n" + b"x" * 0xFFFF + b"wrong", 413),
    "chunks, wrong after the limit": (CHUNKED + b"1\r\nx\r\n" * HEAD_MAX + b"wrong", 431),
}


@pytest.mark.parametrize("what", TWICE_WRONG)
def test_what_is_wrong_twice_is_refused_for_the_same_reason_in_whatever_pieces(what):
    @over_sockets
    async def refuses(_app, connect):
        sent, status = TWICE_WRONG[what]
        for size in (len(sent), 1_000, 100, 7):
            reader, writer = await connect()
            for place in range(0, min(len(sent), 12_000), size):
                writer.write(sent[place : place + size])
                await asyncio.sleep(0)
            assert (await answer(reader))[0] == status, size
            writer.close()

    refuses()


@over_sockets
async def test_a_body_may_be_as_long_as_the_limit_and_no_longer(_app, connect):
    for framed in (with_length, in_chunks):
        reader, writer = await connect(framed(b"x" * BODY_MAX) * 2)
        for _ in range(2):
            assert (await answer(reader))[::2] == (200, b"%d" % BODY_MAX)
        writer.write(framed(b"x" * (BODY_MAX + 1)) + b"x" * 1_000_000)
        await refused(reader, 413, "body_too_large")


def with_length(body, path=b"/"):
    return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (path, HOST, len(body), body)


def in_chunks(body, path=b"/"):
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (path, HOST, chunk)


@over_sockets
async def test_small_requests_in_one_read_are_no_long_head(_app, connect):
    count = HEAD_MAX // 10
    reader, _ = await connect((b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * count)
    for _ in range(count):
        assert (await answer(reader))[0] == 200


GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
ALLOWED = {
    "an upgrade with a body": (
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    "an upgrade with chunks": (
        POST
        + b"Connection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"hello",
    ),
    "an upgrade without a body": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b""),
    "an upgrade that names nothing": (POST + b"Connection: Upgrade\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "an offer of h2c": (
        POST
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 2\r\n\r\n{}",
        b"{}",
    ),
    "a body that looks like a request": (with_length(GET + b"\r\n"), GET + b"\r\n"),
    "chunks that look like a request": (in_chunks(GET + b"\r\n"), GET + b"\r\n"),
    "chunks that look like chunks": (in_chunks(b"0\r\n\r\n" + GET), b"0\r\n\r\n" + GET),
    "trailers": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nAuthorization: Bearer x\r\nHost: y\r\n\r\n",
        b"x",
    ),
    "a trailer that would end the connection": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nConnection: close\r\n\r\n",
        b"x",
    ),
    "extensions of chunks": (POST + b'Transfer-Encoding: Chunked\r\n\r\n1;a=b;c="d"\r\nx\r\n0;e\r\n\r\n', b"x"),
    "empty lines before": (b"\r\n\r\n" + GET + b"\r\n", b""),
    "an absolute target": (b"GET http://x.example:80/?a HTTP/1.1\r\n" + HOST + b"\r\n", b""),
    "an empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b""),
    "an address as host": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", b""),
    "blanks around a value": (GET + b"X: \t y \t\r\nY:z\r\n\r\n", b""),
    "bytes above 127": (GET + b"X: \xff\xfe\r\n\r\n", b""),
}
"""What RFC 9112 allows, and the body that belongs to it."""

SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
REFUSED = {
    "nonsense": b"nonsense\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: x\r\n\r\n",
    "two other hosts": GET + b"host: y\r\n\r\n",
    "two tokens": GET + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    "two keys": GET + b"Idempotency-Key: a\r\nIdempotency-Key: a\r\n\r\n",
    "a host that is none": b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n",
    "a host with half an escape": b"GET / HTTP/1.1\r\nHost: x%4\r\n\r\n",
    "a host that is no address": b"GET / HTTP/1.1\r\nHost: [:::]\r\n\r\n",
    "a target without a host": b"GET http://:80/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with a host that is none": b"GET http://x%/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a host with a path": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "a version in lower case": b"GET / http/1.1\r\n" + HOST + b"\r\n",
    "RTSP": b"GET / RTSP/1.0\r\n" + HOST + b"\r\n",
    "ICE": b"SOURCE / ICE/1.0\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    "CONNECT to a path": b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT to an absolute target": b"CONNECT http://x/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a blank at the end": b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
    "a tab": b"GET\t/\tHTTP/1.1\r\n" + HOST + b"\r\n",
    "a fragment": b"GET /#x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target without a slash": b"GET x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a star": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target of another scheme": b"GET ftp://x/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a length, then chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks, then a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "a length in hex": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "an empty length": POST + b"Content-Length:\r\n\r\nhello",
    "a length that is too long for a number": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another coding in a line of its own": POST
    + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\nnonsense\r\n",
    "a chunk that is longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
    "a chunk size with 0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
    "a chunk that ends with LF": POST + b"Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
    "a line that ends with LF": b"GET / HTTP/1.1\n" + HOST + b"\r\n",
    "a field that ends with LF": b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
    "a head that ends with LF": GET + b"\n",
    "LF before": b"\n" + GET + b"\r\n",
    "a field that ends with CR": GET + b"X: y\rZ: a\r\n\r\n",
    "a folded field": GET + b"X: y\r\n z\r\n\r\n",
    "a folded field with a tab": GET + b"X: y\r\n\tz\r\n\r\n",
    "a field that begins with a blank": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "NUL in a field": GET + b"X: a\x00b\r\n\r\n",
    "a control in a field": GET + b"X: a\x01b\r\n\r\n",
    "NUL in a name": GET + b"X\x00: a\r\n\r\n",
    "a blank before the colon": GET + b"X : y\r\n\r\n",
    "a field without a name": GET + b": y\r\n\r\n",
    "a field without a colon": GET + b"X\r\n\r\n",
}


def pieces(sent, number):
    """Cut what is sent: not, byte by byte, or at one place."""
    if number == 0:
        return [sent]
    if number == 1:
        return [sent[place : place + 1] for place in range(len(sent))]
    place = number % (len(sent) - 1) + 1
    return [sent[:place], sent[place:]]


CUTS = (0, 1, *range(2, 300, 29))


@pytest.mark.parametrize("what", ALLOWED)
def test_every_byte_belongs_to_one_request(what):
    @over_sockets
    async def holds(app, connect):
        request, body = ALLOWED[what]
        for number in CUTS:
            app.served.clear()
            reader, writer = await connect()
            for piece in pieces(request + with_length(b"last") + request, number):
                writer.write(piece)
                await asyncio.sleep(0)
            for expected in (body, b"last", body):
                assert (await answer(reader))[::2] == (200, b"%d" % len(expected)), number
            assert [served[2] for served in app.served] == [body, b"last", body]
            names = [[name for name, _ in served[3]] for served in app.served]
            assert not any(b"authorization" in one for one in names), "trailers are no headers"
            writer.close()

    holds()


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_allowed_is_refused_and_nothing_after_it_is_served(what):
    @over_sockets
    async def refuses(app, connect):
        for number in CUTS:
            app.served.clear()
            reader, writer = await connect()
            for piece in pieces(with_length(b"first") + REFUSED[what] + SMUGGLED, number):
                writer.write(piece)
                await asyncio.sleep(0)
            assert (await answer(reader))[0] == 200
            await refused(reader, 400, "invalid_request")
            assert [served[1:3] for served in app.served] == [("/", b"first")], number
            writer.close()

    refuses()


REFUSED_HEADS = {
    "malformed": (b"HEAD / HTTP/1.1\r\n\r\n", 400),
    "malformed in a field": (b"HEAD / HTTP/1.1\r\n" + HOST + b"X : y\r\n\r\n", 400),
    "a long head": (b"HEAD / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * HEAD_MAX + b"\r\n\r\n", 431),
    "a long target": (b"HEAD /" + b"x" * HEAD_MAX, 414),
    "a long body": (b"HEAD / HTTP/1.1\r\n" + HOST + b"Content-Length: 9999\r\n\r\n", 413),
    "a bad chunk": (b"HEAD / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    "too slow": (b"HEAD / HTTP/1.1\r\n", 408),
}


@pytest.mark.parametrize("what", REFUSED_HEADS)
def test_a_look_at_the_head_that_is_refused_gets_no_body(what):
    @over_sockets
    async def refuses(_app, connect):
        sent, status = REFUSED_HEADS[what]
        for number in CUTS if status != 408 else (0,):
            reader, writer = await connect()
            for piece in pieces(sent, number):
                writer.write(piece)
                await asyncio.sleep(0)
            came = await reader.read()
            assert came.startswith(b"HTTP/1.1 %d " % status)
            assert came.endswith(b"connection: close\r\n\r\n"), came
            writer.close()

    refuses()


@over_sockets
async def test_values_lose_the_blanks_around_them(app, connect):
    reader, _ = await connect(GET + b"Idempotency-Key: \t a b \t\r\n\r\n")
    await answer(reader)
    assert (b"idempotency-key", b"a b") in app.served[0][3]


@over_sockets
async def test_every_byte_belongs_to_one_answer_whatever_the_framework_says(_app, connect):
    for path, (status, _, parts) in ANSWERS.items():
        reader, writer = await connect((b"GET %b HTTP/1.1\r\n" % path.encode() + HOST + b"\r\n") * 2 + GET + b"\r\n")
        for _ in range(2):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b"transfer-encoding" not in head
            if status in {204, 304}:
                assert b"content-length" not in head
                assert head.startswith(b"http/1.1 %d " % status)
            elif path == "/split":
                assert head.startswith(b"http/1.1 500 ")
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            else:
                assert (
                    head.count(b"content-length: %d\r\n" % len(b"".join(parts))) == head.count(b"content-length") == 1
                )
                assert await reader.readexactly(len(b"".join(parts))) == b"".join(parts)
        assert (await answer(reader))[::2] == (200, b"0"), path
        writer.close()


@over_sockets
async def test_an_escaped_slash_separates_nothing(app, connect):
    reader, _ = await connect(b"GET /a%2Fb%2f%20%252F HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await answer(reader))[0] == 200
    assert app.served[0][1] == "/a%2Fb%2f %2F"


@over_sockets
async def test_nothing_is_served_after_a_request_that_ends_the_connection(app, connect):
    for request in (
        GET + b"Connection: close\r\n\r\n",
        GET + b"Connection: keep-alive\r\nConnection: Upgrade ,\tClose\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
    ):
        app.served.clear()
        reader, _ = await connect(request + SMUGGLED)
        assert (await answer(reader))[1]["connection"] == "close"
        assert await reader.read() == b""
        assert len(app.served) == 1


@over_sockets
async def test_an_old_client_may_ask_for_another_request(_app, connect):
    reader, _ = await connect(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
    for _ in range(2):
        assert (await answer(reader))[1]["connection"] == "keep-alive"


@over_sockets
async def test_answers_have_the_order_of_requests(app, connect):
    paths = [b"/slow", b"/", b"/async", b"/framework", b"/"]
    reader, _ = await connect(b"".join(with_length(b"x" * size, path) for size, path in enumerate(paths)))
    for size in range(len(paths)):
        got, headers, body = await answer(reader)
        assert (got, body) == (200, b"%d" % size)
        assert "date" in headers


@over_sockets
async def test_a_client_is_told_to_go_on_before_it_sends_a_body(_app, connect):
    reader, writer = await connect(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert (await answer(reader))[::2] == (200, b"2")


@over_sockets
async def test_a_client_that_has_sent_its_body_is_not_told_to_go_on(_app, connect):
    waits = POST + b"Expect: 100-continue\r\n"
    reader, writer = await connect(waits + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe")
    writer.write(b"\r\n0\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    reader, writer = await connect(waits + b"Content-Length: 2\r\n\r\nhe" + POST[:8])
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await reader.readexactly(1)
    writer.write(POST[8:] + b"Content-Length: 0\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")


@over_sockets
async def test_an_old_client_is_not_told_to_go_on(_app, connect):
    reader, writer = await connect(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    await asyncio.sleep(0.05)
    writer.write(b"{}")
    assert (await answer(reader))[::2] == (200, b"2")


@over_sockets
async def test_a_look_at_the_head_gets_no_body(_app, connect):
    reader, _ = await connect(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n" + GET + b"\r\n")
    assert b"content-length: 1\r\n" in await reader.readuntil(b"\r\n\r\n")
    assert (await answer(reader))[0] == 200


@over_sockets
async def test_what_came_before_the_end_is_answered(_app, connect):
    reader, writer = await connect(with_length(b"x", b"/async") * 3)
    writer.write_eof()
    for _ in range(3):
        assert (await answer(reader))[0] == 200
    assert await reader.read() == b""


@over_sockets
async def test_requests_of_a_client_that_reads_nothing_wait_in_the_client(app, connect):
    _, writer = await connect()
    writer.transport.pause_reading()
    for _ in range(20):
        writer.write((b"GET /flood HTTP/1.1\r\n" + HOST + b"\r\n") * 14_000)
    await asyncio.sleep(TIMEOUT_S / 4)
    assert len(app.served) < 100, "answers of a megabyte are not made before the client takes them"
    assert writer.transport.get_write_buffer_size() > 100_000, "what it sends is not read either"
    assert all(len(connection._rest) <= 2 * READ_BYTES for connection in app.server.connections)
    async with asyncio.timeout(5 * TIMEOUT_S):
        while app.server.connections:
            await asyncio.sleep(TIMEOUT_S / 10)


UNFINISHED = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "a part of the head": b"GET / HTTP/1.1\r\nHost:",
    "a part of the body": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nx",
    "a part of a chunk": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nx",
}


@pytest.mark.parametrize("sent", [pytest.param(sent, id=what) for what, sent in UNFINISHED.items()])
def test_a_request_that_does_not_arrive_in_time_ends_its_connection(sent):
    @over_sockets
    async def ends(_app, connect):
        began_s = asyncio.get_running_loop().time()
        reader, _ = await connect(sent)
        if sent:
            await refused(reader, 408, "too_slow")
        else:
            assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - began_s > TIMEOUT_S * 0.9

    ends()


@pytest.mark.parametrize("sent", [GET + b"X: ", POST + b"Content-Length: 4000\r\n\r\n"])
def test_a_request_that_trickles_in_gains_no_time(sent):
    @over_sockets
    async def ends(_app, connect):
        reader, writer = await connect(sent)
        refusing = asyncio.create_task(refused(reader, 408, "too_slow"))
        async with asyncio.timeout(10 * TIMEOUT_S):
            while not refusing.done():
                writer.write(b"x")
                await asyncio.wait({refusing}, timeout=TIMEOUT_S / 10)
            await refusing

    ends()


@over_sockets
async def test_the_second_request_has_a_time_limit_of_its_own(_app, connect):
    reader, writer = await connect(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await answer(reader))[0] == 200
    writer.write(b"GET / HTTP/1.1\r\n")
    await refused(reader, 408, "too_slow")


@over_sockets
async def test_idle_connections_and_slow_answers_are_left_alone(_app, connect):
    reader, writer = await connect(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await answer(reader))[0] == 200
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * TIMEOUT_S):
            await reader.read()
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await answer(reader))[0] == 200


@over_sockets
async def test_a_body_that_waits_for_the_answer_before_it_has_time(app, connect):
    began_s = asyncio.get_running_loop().time()
    reader, writer = await connect(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n" + UNFINISHED["a part of the body"])
    assert (await answer(reader))[0] == 200
    (connection,) = app.server.connections
    assert connection._deadline_s > began_s + 2.8 * TIMEOUT_S, "it counts from its turn"
    writer.write(b"xxxx")
    assert (await answer(reader))[::2] == (200, b"5")


@over_sockets
async def test_a_stream_learns_that_its_client_is_gone_although_more_was_asked(app, connect):
    _, writer = await connect(b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n")
    await app.held.wait()
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    writer.transport.abort()
    await app.gone.wait()


@over_sockets
async def test_a_stream_is_sent_as_it_comes_whatever_parameters_its_media_type_has(_app, connect):
    for path in (b"/hold", b"/hold-utf-8"):
        reader, _ = await connect(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await reader.readuntil(b"data: 1\n\n")).startswith(b"HTTP/1.1 200 ")


@over_sockets
async def test_a_request_that_is_in_the_kernel_when_idle_connections_are_closed_is_answered(app, connect):
    reader, writer = await connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await answer(reader))[0] == 200
    # Nothing else runs between the sending and the closing: the server has not read it.
    os.write(writer.get_extra_info("socket").fileno(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    app.server.draining = True
    for connection in tuple(app.server.connections):
        connection.close_idle()
    status, headers, _ = await answer(reader)
    assert (status, headers["connection"]) == (200, "close")
    assert await reader.read() == b""


@over_sockets
async def test_a_request_that_is_half_here_when_idle_connections_are_closed_is_answered(app, connect):
    first, second = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab", b"cd"
    reader, writer = await connect(first)
    while not any(connection._has_begun() for connection in app.server.connections):
        await asyncio.sleep(0)
    stopping = asyncio.create_task(app.server.stop(leave_s=0, finish_s=5))
    await asyncio.sleep(0.05)
    writer.write(second)
    status, headers, body = await answer(reader)
    assert (status, headers["connection"], body) == (200, "close", b"4")
    writer.close()
    await stopping


@over_sockets
async def test_a_client_that_connects_while_the_listener_closes_is_answered(app, connect):
    connecting = asyncio.create_task(connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
    while not connecting.done() and not app.server.connections:
        await asyncio.sleep(0)
    stopping = asyncio.create_task(app.server.stop(leave_s=5, finish_s=5))
    reader, writer = await connecting
    assert (await answer(reader))[0] == 200
    writer.close()
    await stopping


@over_sockets
async def test_a_request_whose_work_is_cancelled_or_breaks_ends_its_connection(_app, connect):
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    for path in (b"/cancelled", b"/broken"):
        reader, _ = await connect(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


@over_sockets
async def test_an_answer_whose_end_is_never_read_does_not_hold_its_connection_for_ever(app, connect):
    app.server.keep_alive_s = TIMEOUT_S / 4
    taken = await unread(app, connect, b"/size/4000000")
    for ends in (False, True):
        left = 0
        while not 0 < left < 64_000:
            writer, left = await unread(app, connect, b"/size/%d" % (4_000_000 - taken[1] + 30_000))
        if ends:
            writer.write_eof()
        async with asyncio.timeout(6 * TIMEOUT_S):
            while app.server.connections:
                await asyncio.sleep(TIMEOUT_S / 20)


async def unread(app, connect, path):
    """Ask, and read nothing: gives the client's end, and how much of the answer the server's kernel does not take."""
    before = set(app.server.connections)
    _, writer = await connect()
    writer.transport.pause_reading()
    writer.write(b"GET %b HTTP/1.1\r\n" % path + HOST + b"\r\n")
    while not app.served or app.served[-1][1] != path.decode():
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    (connection,) = set(app.server.connections) - before
    return writer, connection._transport.get_write_buffer_size()


@over_sockets
async def test_a_full_server_closes_idle_connections_and_refuses_only_if_all_are_busy(app, connect):
    app.server.connections_max = 3
    idle, _ = await connect(GET + b"\r\n")
    assert (await answer(idle))[0] == 200
    for _ in range(3):
        await connect(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
    assert await idle.read() == b"", "the idle one gave way to the third busy one"
    while sum(connection.busy for connection in app.server.connections) < 3:
        await asyncio.sleep(0)
    reader, _ = await connect()
    await refused(reader, 503, "unavailable")
    assert len(app.server.connections) == 3


@over_sockets
async def test_a_full_server_lets_an_old_unfinished_request_go_and_no_young_one(app, connect):
    app.server.connections_max = 1
    app.server.request_timeout_s = 100
    slow, _ = await connect(b"GET / HTTP/1.1\r\n")
    while not any(connection._has_begun() for connection in app.server.connections):
        await asyncio.sleep(0)
    reader, _ = await connect()
    await refused(reader, 503, "unavailable")
    (connection,) = app.server.connections
    connection._deadline_s -= 11
    reader, _ = await connect(GET + b"\r\n")
    assert (await answer(reader))[0] == 200
    with contextlib.suppress(ConnectionResetError):
        assert await slow.read() == b""


@over_sockets
async def test_a_full_server_ends_connections_that_wait_for_their_client_to_close(app, connect):
    app.server.connections_max = 1
    reader, _ = await connect(b"nonsense\r\n\r\n")
    await refused(reader, 400, "invalid_request")
    reader, _ = await connect(GET + b"\r\n")
    assert (await answer(reader))[0] == 200


@over_sockets
async def test_a_full_server_leaves_streams_alone(app, connect):
    app.server.connections_max = 1
    await connect(b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n")
    await app.held.wait()
    reader, _ = await connect()
    await refused(reader, 503, "unavailable")
    assert not app.gone.is_set()
    assert len(app.server.connections) == 1


@over_sockets
async def test_a_client_that_is_refused_can_send_the_rest(app, connect):
    app.server.request_timeout_s = 100
    _, writer = await connect(b"nonsense\r\n\r\n")
    writer.write(b"x" * 20_000_000)
    while writer.transport.get_write_buffer_size():
        await asyncio.sleep(0.01)
    assert len(app.server.connections) == 1, "it is not reset meanwhile"


@over_sockets
async def test_a_client_with_many_requests_leaves_turns_to_others(app, connect):
    many = (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * 1_000
    turns = []

    def turn():
        turns.append(len(app.served))
        if len(app.served) < 1_000:
            loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    # The answers are made at once, as from Python 3.12 on.
    app.server.spawn = lambda coroutine, context: context.run(run_through, coroutine)
    await connect(many)
    loop.call_soon(turn)
    while len(app.served) < 1_000:
        await asyncio.sleep(0)
    assert max(later - sooner for sooner, later in pairwise(turns)) <= 64


def run_through(coroutine):
    with pytest.raises(StopIteration):
        coroutine.send(None)
