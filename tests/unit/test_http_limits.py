"""The limits of a connection, over sockets, on the loop that serves."""

import asyncio
import functools
import json
from contextlib import asynccontextmanager

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from flashsale.http.limits import limited
from flashsale.settings import HttpSettings

HEAD_MAX, TIMEOUT_S = 2048, 0.8
HOST = b"Host: x\r\n"


class App:
    """Answers with the body's length; /early at once, /slow after the time limit, /hold not before its client goes."""

    def __init__(self):
        self.gone = asyncio.Event()
        self.held = asyncio.Event()

    async def __call__(self, scope, receive, send):
        size, more = 0, scope["path"] in {"/", "/slow"}
        if scope["path"] == "/slow":
            await asyncio.sleep(1.9 * TIMEOUT_S)
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            size, more = size + len(message["body"]), message["more_body"]
        if scope["path"] == "/hold":
            await self._hold(receive, send)
            return
        body = b"%d" % size
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    async def _hold(self, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self.gone.is_set():
            self.held.set()
            try:
                async with asyncio.timeout(TIMEOUT_S / 10):
                    if (await receive())["type"] == "http.disconnect":
                        self.gone.set()
            except TimeoutError:
                await send({"type": "http.response.body", "body": b".", "more_body": True})


@asynccontextmanager
async def serving():
    """Give the app and a function that connects to it."""
    app, state, clients = App(), ServerState(), []
    settings = HttpSettings(head_bytes_max=HEAD_MAX, request_timeout_s=TIMEOUT_S)
    config = uvicorn.Config(app, http=limited(settings), ws="none", lifespan="off", log_config=None)
    config.load()
    listening = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )

    async def connect(sent=b""):
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        clients.append(writer)
        writer.write(sent)
        return reader, writer

    try:
        yield app, connect
    finally:
        for writer in clients:
            writer.close()
        listening.close()


def over_sockets(test):
    """Run a test on the loop that serves, for at most ten seconds."""

    @functools.wraps(test)
    def run(**arguments):
        async def bounded():
            async with asyncio.timeout(10), serving() as (app, connect):
                await test(app, connect, **arguments)

        uvloop.run(bounded())

    del run.__wrapped__
    return run


async def answer(reader):
    """Read one answer; gives its status, headers and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode().strip().split("\r\n")
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


TOO_LONG = {
    "a request line": b"GET /" + b"x" * HEAD_MAX + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a request line without an end": b"GET /" + b"x" * HEAD_MAX,
    "a field": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * HEAD_MAX + b"\r\n\r\n",
    "a field without an end": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * HEAD_MAX,
    "a name without an end": b"GET / HTTP/1.1\r\n" + HOST + b"x" * HEAD_MAX,
    "many fields": b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * HEAD_MAX + b"\r\n",
    "empty lines": b"\r\n" * HEAD_MAX,
    "trailers": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * HEAD_MAX,
}


@pytest.mark.parametrize("sent", [pytest.param(sent, id=what) for what, sent in TOO_LONG.items()])
def test_a_head_that_is_too_long_is_refused_wherever_it_is_long(sent):
    @over_sockets
    async def refuses(_app, connect):
        reader, writer = await connect(sent)
        # The rest of what the client meant to send does not reset the connection before it can read the answer.
        writer.write(sent[-1:] * 1_000_000)
        await refused(reader, 431, "head_too_large")

    refuses()


@over_sockets
async def test_a_long_body_is_no_long_head(_app, connect):
    body = b"x" * 100 * HEAD_MAX
    request = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    reader, _ = await connect(request * 2)
    for _ in range(2):
        assert (await answer(reader))[::2] == (200, b"%d" % len(body))


@over_sockets
async def test_small_requests_in_one_read_are_no_long_head(_app, connect):
    count = HEAD_MAX // 10
    reader, _ = await connect((b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * count)
    for _ in range(count):
        assert (await answer(reader))[0] == 200


@over_sockets
async def test_a_long_head_behind_another_request_is_refused_too(app, connect):
    reader, _ = await connect(b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n" + head_of(HEAD_MAX + 1))
    assert await reader.read() == b"", "nothing is written into the answer before it"
    await app.gone.wait()


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
                                  b"GET / HTTP/1.1\r\nX : y\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n"])  # fmt: skip
def test_what_is_no_http_is_a_problem_too(sent):
    @over_sockets
    async def refuses(_app, connect):
        reader, _ = await connect(sent)
        await refused(reader, 400, "invalid_request")

    refuses()


@over_sockets
async def test_a_bad_chunk_is_refused_and_its_handler_told(app, connect):
    reader, writer = await connect(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    writer.write(b"nonsense\r\n")
    await refused(reader, 400, "invalid_request")
    await app.gone.wait()


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
        assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - began_s > TIMEOUT_S * 0.9

    ends()


@over_sockets
async def test_a_request_that_trickles_in_gains_no_time(_app, connect):
    reader, writer = await connect(b"GET / HTTP/1.1\r\n" + HOST + b"X: ")
    began_s = asyncio.get_running_loop().time()
    while True:
        writer.write(b"x")
        try:
            async with asyncio.timeout(TIMEOUT_S / 10):
                assert await reader.read() == b""
                break
        except TimeoutError:
            assert asyncio.get_running_loop().time() - began_s < 5 * TIMEOUT_S


@over_sockets
async def test_a_handler_learns_that_its_body_will_not_come(app, connect):
    await connect(UNFINISHED["a part of the body"])
    await app.gone.wait()


@over_sockets
async def test_an_answer_before_the_body_gives_the_body_no_more_time(_app, connect):
    reader, _ = await connect(b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nx")
    assert (await answer(reader))[0] == 200
    assert await reader.read() == b""


@over_sockets
async def test_the_second_request_has_a_time_limit_of_its_own(_app, connect):
    reader, writer = await connect(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await answer(reader))[0] == 200
    writer.write(b"GET / HTTP/1.1\r\n")
    assert await reader.read() == b""


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
async def test_a_body_that_waits_for_the_answer_before_it_has_time(_app, connect):
    reader, writer = await connect(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n" + UNFINISHED["a part of the body"])
    assert (await answer(reader))[0] == 200
    # Past the second time limit since the request began: it counts from its turn.
    await asyncio.sleep(0.2 * TIMEOUT_S)
    writer.write(b"xxxx")
    assert (await answer(reader))[::2] == (200, b"5")


@over_sockets
async def test_a_stream_learns_that_its_client_is_gone_although_more_was_asked(app, connect):
    _, writer = await connect(b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n")
    await app.held.wait()
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    writer.transport.abort()
    await app.gone.wait()
