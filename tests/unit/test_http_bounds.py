"""What a connection may cost: clients that hold on to theirs in every way, and an honest client at the same time."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest
import uvloop

from tests.support.edge_server import CONNECTIONS_MAX, KEEP_ALIVE_S, REQUEST_TIMEOUT_S, edge_server

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
STEP_S = 0.05


@pytest.fixture(scope="module")
def server():
    with edge_server() as place:
        yield place


async def nothing(reader, writer):
    await asyncio.Event().wait()


async def slow_reads(reader, writer):
    while True:
        await asyncio.sleep(STEP_S)
        await reader.read(1_000)


async def end(reader, writer):
    writer.write_eof()
    await asyncio.Event().wait()


def sends(piece, *, pause_s=0.0):
    async def go_on(reader, writer):
        while not writer.transport.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return go_on


async def sends_and_reads(reader, writer):
    async with asyncio.TaskGroup() as group:
        group.create_task(slow_reads(reader, writer))
        group.create_task(sends(GET * 500)(reader, writer))


WAYS = {
    "8 MB of requests, and reads nothing": (2, GET * (8_000_000 // len(GET)), nothing),
    "64 MB of requests, and reads nothing": (1, GET * (64_000_000 // len(GET)), nothing),
    "64 MB of requests for long answers, and reads nothing": (1, LARGE * (64_000_000 // len(LARGE)), nothing),
    "requests without end, and reads slowly": (2, b"", sends_and_reads),
    "nothing": (300, b"", nothing),
    "nothing after a request": (300, GET, nothing),
    # The timer of the request has run out by then.
    "nothing after an answer that took longer than a request may": (
        100,
        b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n",
        nothing,
    ),
    "nothing after a request that ends the connection": (
        100,
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        nothing,
    ),
    "nothing after a request that it does not read": (100, GET * 50, nothing),
    "a head, a byte at a time": (300, b"GET / HTTP/1.1\r\nHost: x\r\nX: ", sends(b"x", pause_s=STEP_S)),
    "empty lines, one at a time": (100, b"", sends(b"\r\n", pause_s=STEP_S)),
    "a head that stops": (100, b"GET / HTTP/1.1\r\nHost: x\r\n", nothing),
    "a head that ends with the connection's half": (100, b"GET / HTTP/1.1\r\nHost: x\r\n", end),
    "a body, a byte at a time": (100, POST + b"Content-Length: 9000\r\n\r\n", sends(b"x", pause_s=STEP_S)),
    "a body that stops": (100, POST + b"Content-Length: 9000\r\n\r\nx", nothing),
    "a body that waits to be asked for": (100, POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", nothing),
    "small chunks, one at a time": (100, CHUNKS, sends(b"1\r\nx\r\n", pause_s=STEP_S)),
    "chunks without end": (20, CHUNKS, sends(b"1000\r\n" + b"x" * 4096 + b"\r\n")),
    "a chunk's extension without end": (20, CHUNKS + b"1;x=", sends(b"y" * 4096)),
    "trailers without end": (20, CHUNKS + b"0\r\n", sends(b"X: y\r\n" * 500)),
    "a head without end": (20, b"GET / HTTP/1.1\r\nX: ", sends(b"y" * 4096)),
    "bytes after a refusal": (20, b"nonsense\r\n\r\n", sends(b"y" * 4096)),
    "bytes on a stream, and reads nothing": (20, STREAM, sends(b"y" * 4096)),
    "a large answer that it does not read": (6, LARGE, nothing),
    "a large answer that it reads slowly": (6, LARGE, slow_reads),
    "a large answer, then the half of the connection": (6, LARGE, end),
    "a stream that it does not read": (20, STREAM, nothing),
    "a stream, then the half of the connection": (20, STREAM, end),
    "half of the connection": (100, b"", end),
    "half of the connection after a request": (100, GET, end),
    "as many connections as there may be": (CONNECTIONS_MAX, b"", nothing),
    "as many slow heads as there may be connections": (CONNECTIONS_MAX, b"GET /", sends(b"x", pause_s=0.2)),
    "as many idle connections as there may be": (CONNECTIONS_MAX, GET, nothing),
}  # fmt: skip


async def ask(port):
    """Be honest, over a new connection: gives how many connections the server has."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(body) if head.startswith(b"HTTP/1.1 200 ") else None
    finally:
        writer.close()


def resident_mb(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def hold(port, sent, then):
    """Hold on to a connection until the server ends it."""
    sock = socket.socket()
    sock.setblocking(False)
    # What the kernel keeps for a client is no cost of the server's; filling it only takes time.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1)
    try:
        with contextlib.suppress(OSError):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(sent)
            await then(reader, writer)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_holds_on_costs_little_and_is_let_go(server, way):
    port, pid = server
    count, sent, then = WAYS[way]

    async def run():
        assert await ask(port) == 1
        before_mb, grown_mb, slowest_s, refused, asked = resident_mb(pid), 0.0, 0.0, 0, 0
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        holding = {asyncio.create_task(hold(port, sent, then)) for _ in range(count)}
        held, most = count, 0
        # The honest client is in this process: it can not be quick before all of these have come.
        await asyncio.sleep(0.2)
        while held > 1 or loop.time() - began_s < 0.4:
            asking_s = loop.time()
            assert asking_s - began_s < 30 * (REQUEST_TIMEOUT_S + KEEP_ALIVE_S), f"{held - 1} are still there"
            answer = await ask(port)
            asked += 1
            if answer is None:
                refused += 1
            elif asking_s - began_s > 0.35:
                held = answer
            most = max(most, answer or CONNECTIONS_MAX)
            slowest_s = max(slowest_s, loop.time() - asking_s)
            grown_mb = max(grown_mb, resident_mb(pid) - before_mb)
            await asyncio.sleep(0.03)
        assert len(holding) == count
        lasted_s = loop.time() - began_s
        print(  # noqa: T201 - the figures, shown with -s
            f"{way}: {count} connections, {lasted_s:.1f} s, +{grown_mb:.1f} MB, honest {slowest_s * 1000:.0f} ms"
        )
        assert grown_mb < 40, f"{grown_mb:.0f} MB"
        assert slowest_s < 3, "the honest client waits"
        assert not refused, f"{refused} of {asked} honest requests were refused"
        assert most <= CONNECTIONS_MAX + 1

    uvloop.run(run())
