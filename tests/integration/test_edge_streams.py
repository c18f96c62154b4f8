"""API processes come and go, and nginx takes no stream away."""

import asyncio
import os
import signal
from collections import Counter
from contextlib import ExitStack, asynccontextmanager

import pytest

from flashsale.local.access import free_port
from tests.support.shipped_nginx import BINARIES, SHIPPED, shipped_nginx
from tests.support.upstream_server import upstream_server

pytestmark = pytest.mark.skipif(not BINARIES, reason="needs nginx")

STREAMS = {"current": 1000, "system": 100}
REPLACED = 3
GET, POST = "GET /api/products", "POST /api/order/buy-flash"


class Streams:
    """Clients that read streams."""

    def __init__(self, connections):
        self._connections = connections

    async def events(self):
        """Read an event from each; returns how many streams ended instead."""

        async def event(reader):
            try:
                while not (line := await reader.readline()).startswith(b"data: "):
                    if not line:
                        return 1
            except ConnectionError:
                return 1
            return 0

        async with asyncio.timeout(60):
            return sum(await asyncio.gather(*(event(reader) for reader, _ in self._connections)))


@asynccontextmanager
async def streams(port, count):
    connections = []
    for _ in range(0, count, 100):
        opening = (asyncio.open_connection("127.0.0.1", port) for _ in range(min(count, 100)))
        connections += await asyncio.gather(*opening)
    try:
        for _, writer in connections:
            writer.write(b"GET /sse/stock/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        yield Streams(connections)
    finally:
        for _, writer in connections:
            writer.close()


async def ask(port, call, answers):
    """Send one request on a connection of its own; counts the call, the status, and who answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{call} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(60):
            answer = await reader.read()
        answers[call, answer.split(b" ")[1].decode(), answer.rpartition(b"\r\n\r\n")[2].decode()] += 1
    finally:
        writer.close()


async def answered_by(port, wanted):
    """Ask until exactly these have answered the last requests; returns all answers."""
    answers = Counter()
    async with asyncio.timeout(60):
        while True:
            last = Counter()
            for call in (GET, POST) * 4:
                await ask(port, call, last)
            answers += last
            if {who for _, _, who in last} == set(wanted):
                return answers


@pytest.mark.parametrize("which", BINARIES)
async def test_api_processes_are_killed_and_replaced_and_every_stream_stays(tmp_path, which):
    port = free_port()
    with ExitStack() as running:

        def start(address):
            return running.enter_context(upstream_server(address, port))

        api = {address: start(address) for address in ("127.1.0.1", "127.1.0.2")}
        sse = start("127.2.0.1")
        at_first = {"api": [*api], "sse": ["127.2.0.1"]}
        edge, names = running.enter_context(shipped_nginx(tmp_path, BINARIES[which], upstream=port, addresses=at_first))
        async with streams(edge.port, STREAMS[which]) as held:
            assert await held.events() == 0
            answers = await answered_by(edge.port, api)
            for number, how in zip(range(REPLACED), [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL], strict=True):
                gone, address = next(iter(api)), f"127.1.1.{number}"
                os.kill(api.pop(gone), how)
                without = await answered_by(edge.port, api)
                api[address] = start(address)
                names.tell("api", *api)
                answers += await answered_by(edge.port, api)
                # What a killed process had received is answered 503, and sent again only if it is a look.
                assert {status for call, status, _ in without if how is signal.SIGTERM or call == GET} == {"200"}, (
                    without
                )
            os.kill(sse, signal.SIGUSR1)
            assert await held.events() == 0
    assert {status for _, status, _ in answers} == {"200"}, answers


async def test_a_reload_ends_them(tmp_path):
    """The control: what was done before when an address changed."""
    port = free_port()
    short = (SHIPPED / "nginx.conf").read_text().replace("worker_shutdown_timeout 1h", "worker_shutdown_timeout 1s")
    with ExitStack() as running:
        running.enter_context(upstream_server("127.0.0.1", port))
        binary = next(iter(BINARIES.values()))
        edge, _ = running.enter_context(shipped_nginx(tmp_path, binary, upstream=port, files={"nginx.conf": short}))
        async with streams(edge.port, 20) as held:
            assert await held.events() == 0
            edge.process.send_signal(signal.SIGHUP)
            assert await held.events() == 20
