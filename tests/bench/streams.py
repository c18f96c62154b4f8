"""Server-sent events: memory of a stream, and how long until the last one has a change."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg

from flashsale.adapters.postgres.timeline import adopt_timeline
from flashsale.demo.sale import create_product
from flashsale.local.children import pss_bytes
from tests.bench.bench import Bench, Server, buys, only
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.press import press
from tests.bench.watchers import crowd
from tests.support.api import buyer_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from flashsale.local.stack import Stack

KIB = 2**10
HELD = 100_000
MOST = 19_000
"""Streams of one process: it may open 20,000 files."""
PROCESSES = 6
"""Of servers and of clients, for the most streams: a process may open 20,000 files."""
PAUSE_S = 0.05
"""Between two buys that go on while changes are measured."""


class Changes:
    """Buys of a product, each of which changes its stock."""

    def __init__(self, bench: Bench, stack: Stack, product_id: int, database: asyncpg.Connection) -> None:
        """Buy one at a time."""
        self.path = f"/sse/stock/{product_id}"
        self._bench = bench
        self._stack = stack
        self._product_id = product_id
        self._requests = buys(stack, product_id, buyer_tokens(stack, 100))
        self._database = database

    async def buy(self) -> int:
        """Buy a unit; returns the version that the stock has then."""
        only(await press(self._stack.base_url, itertools.islice(self._requests, 1), connections=1, seconds=30), b"202")
        version: int = await self._database.fetchval(
            "SELECT version FROM product_live WHERE product_id = $1", self._product_id
        )
        # Streams show it on the time line of the database.
        return await adopt_timeline(self._database) + version

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Let buys go on; says how many did and how long the slowest took."""
        took_s: list[float] = []
        enough = asyncio.Event()

        async def go_on() -> None:
            while not enough.is_set():
                one = itertools.islice(self._requests, 1)
                took_s.extend(only(await press(self._stack.base_url, one, connections=1, seconds=30), b"202").seconds)
                await asyncio.sleep(PAUSE_S)

        buying = asyncio.create_task(go_on())
        yield
        enough.set()
        await buying
        self._bench.say(f"{len(took_s):,} buys went on meanwhile, the slowest took {max(took_s):.2f} s")


@asynccontextmanager
async def _changes(bench: Bench, stack: Stack) -> AsyncIterator[Changes]:
    product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": 50_000})
    database = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        yield Changes(bench, stack, product_id, database)
    finally:
        await database.close()


async def streams(bench: Bench) -> None:
    """10,000 streams of a stock on one process."""
    await _streams(bench, 10_000)


async def streams_most(bench: Bench) -> None:
    """As many streams as one process may open files for."""
    await _streams(bench, MOST)


async def _streams(bench: Bench, count: int) -> None:
    async with bench.stack("streams", api=1, orders=1, payments=1) as stack, _changes(bench, stack) as changes:
        servers = [Server(stack.base_url, stack.children["api"][0].pid)]
        seen = await _watch(bench, servers, changes.path, count, changes.buy)
    async with bench.hello(1) as hello:
        control = await _watch(bench, hello, "/stream", count, _bare_change(hello))
    _note(bench, f"{count:,} streams, one process", seen, control, most_ms=300 * count / 10_000)


async def streams_100k(bench: Bench) -> None:
    """100,000 streams of a stock on six processes of their own, while buys go on."""
    each = HELD // PROCESSES + 1
    command = [sys.executable, "-m", "flashsale.cli", "serve"]
    async with (
        bench.stack("100,000 streams", api=1, orders=1, payments=1) as stack,
        _changes(bench, stack) as changes,
        bench.serve("streams", command, PROCESSES, sockets=PROCESSES, environment=stack.environment) as servers,
    ):
        seen = await _watch(bench, servers, changes.path, each, changes.buy, meanwhile=changes.going_on)
    async with bench.hello(PROCESSES, sockets=PROCESSES) as hello:
        control = await _watch(bench, hello, "/stream", each, _bare_change(hello))
    bench.figures.append(Figure(name="streams held at once", unit="", runs=[PROCESSES * each], aims=(at_least(HELD),)))
    _note(bench, f"{HELD:,} streams, {PROCESSES} processes, while buys go on", seen, control, most_ms=3_000)


@dataclass(slots=True)
class _Watched:
    """Memory of each stream, and the time from each change to its last watcher."""

    kib: float
    seconds: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    """The longest wait of another client, for each change."""


async def _watch(
    bench: Bench,
    servers: Sequence[Server],
    path: str,
    each: int,
    change: Callable[[], Awaitable[int]],
    *,
    meanwhile: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> _Watched:
    """Open `each` streams at every server, and change what they show; `meanwhile` is entered once they are open."""
    before = sum(pss_bytes(server.pid) for server in servers)
    began_s = time.monotonic()
    async with crowd([server.url for server in servers], path, each) as opened:
        count = each * len(servers)
        bench.say(f"opened {count:,} streams in {time.monotonic() - began_s:.0f} s")
        watched = _Watched((sum(pss_bytes(server.pid) for server in servers) - before) / count / KIB)
        async with meanwhile():
            for _ in range(bench.rounds):
                began_s = time.monotonic()
                asking = asyncio.create_task(_ask(servers[0].url))
                version = await change()
                watched.seconds.append(await opened.all_have(version) - began_s)
                asking.cancel()
                watched.waits_s.append(await asking)
    return watched


async def _ask(url: str) -> float:
    """Ask for something small again and again until cancelled; returns the longest time that an answer took."""
    longest_s, request = 0.0, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    try:
        while True:
            one = await press(url, iter([request]), connections=1, seconds=30)
            longest_s = max(longest_s, *one.seconds)
    except asyncio.CancelledError:
        return longest_s


def _bare_change(hello: Sequence[Server]) -> Callable[[], Awaitable[int]]:
    """Return what changes the control's streams: a message like those of a stock, posted to each process."""
    versions = itertools.count(2)

    async def change() -> int:
        version = next(versions)
        body = b'id: %d\ndata: {"productId":1,"stock":%d,"version":%d}\n\n' % (version, 50_000 - version, version)
        request = b"POST /change HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        await asyncio.gather(*(press(server.url, iter([request]), connections=1, seconds=30) for server in hello))
        return version

    return change


def _note(bench: Bench, what: str, seen: _Watched, control: _Watched, *, most_ms: float) -> None:
    bare = "bare ASGI stream"
    bench.figures.append(
        Figure(
            name=f"{what}: memory of each",
            unit="KiB",
            runs=[seen.kib],
            control=bare,
            control_runs=[control.kib],
            aims=(at_most(12),),
        )
    )
    bench.figures.append(
        Figure(
            name=f"{what}: a change reaches the last",
            unit="ms",
            runs=[1000 * seconds for seconds in seen.seconds],
            control=bare,
            control_runs=[1000 * seconds for seconds in control.seconds],
            aims=(at_most(most_ms),),
        )
    )
    bench.figures.append(
        Figure(
            name=f"{what}: longest wait of another client meanwhile",
            unit="ms",
            runs=[1000 * seconds for seconds in seen.waits_s],
            control=bare,
            control_runs=[1000 * seconds for seconds in control.waits_s],
        )
    )
