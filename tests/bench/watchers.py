"""Clients of streams, in processes of their own: one process may open 20,000 files.

A process opens its streams, then answers each version that it reads from standard input with the instant (monotonic
clock, the same for all processes) at which the last of its streams had that version or a later one.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import uvloop

from flashsale.local.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

SOURCES = 2_000
"""Connections from one loopback address: with most of its ports taken the kernel searches long for a free one."""
AT_ONCE = 200
"""Connections that a process begins at once."""
PATIENCE_S = 300.0
"""Longest time for all streams to open, or for one version to reach them."""


class _Watcher(asyncio.Protocol):
    def __init__(self, watchers: Watchers) -> None:
        self.watchers = watchers
        self.version = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(self.watchers.request)

    def data_received(self, data: bytes) -> None:
        # An event may be at the begin of what came: streams have no chunks around them.
        place = 0 if data.startswith(b"id: ") else -1
        place = max(place, data.rfind(b"\nid: ") + 1) if b"\nid: " in data else place
        end = data.find(b"\n", place + 1)
        if place >= 0 and end >= 0:
            self.watchers.heard(self, int(data[place + 4 : end]))

    def connection_lost(self, error: Exception | None) -> None:
        self.watchers.left()


class Watchers:
    """The streams of one process."""

    def __init__(self, url: str, path: str, *, net: int) -> None:
        """Watch a path, from the loopback addresses 127.0.net.1 and following."""
        self.place = urlsplit(url)
        self.net = net
        self.request = f"GET {path} HTTP/1.1\r\nHost: {self.place.netloc}\r\n\r\n".encode()
        self._lost = 0
        self._at: Counter[int] = Counter()
        """Streams by the version that they have; 0 before the first."""
        self._all_have = 0
        self._steps: deque[tuple[int, float]] = deque()
        """Versions that all streams had, and since when."""
        self._step = asyncio.Event()

    def heard(self, watcher: _Watcher, version: int) -> None:
        """Note what a stream has."""
        at = self._at
        at[watcher.version] -= 1
        at[version] += 1
        if not at[watcher.version]:
            del at[watcher.version]
            least = min(at)
            if least > self._all_have:
                self._all_have = least
                self._steps.append((least, time.monotonic()))
                self._step.set()
        watcher.version = version

    def left(self) -> None:
        """Note that a stream has ended."""
        self._lost += 1
        self._step.set()

    async def open(self, count: int) -> None:
        """Begin so many streams."""
        loop = asyncio.get_running_loop()
        self._at[0] = count
        for first in range(0, count, AT_ONCE):
            await asyncio.gather(
                *(
                    loop.create_connection(
                        lambda: _Watcher(self),
                        self.place.hostname,
                        self.place.port,
                        local_addr=(f"127.0.{self.net}.{1 + number // SOURCES}", 0),
                    )
                    for number in range(first, min(first + AT_ONCE, count))
                )
            )

    async def all_have(self, version: int) -> float:
        """Wait until each stream has a version or a later one; gives since when. Versions asked for only grow.

        Raises:
            ConnectionError: if a stream has ended.
        """
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if self._lost:
                    raise ConnectionError(f"{self._lost} streams ended")
                while self._steps and self._steps[0][0] < version:
                    self._steps.popleft()
                if self._steps:
                    return self._steps[0][1]
                self._step.clear()
                await self._step.wait()


class Crowd:
    """Processes of watchers."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        """Talk to them."""
        self._processes = processes

    async def all_have(self, version: int) -> float:
        """Return the instant at which the last stream had a version.

        Raises:
            AssertionError: if a process ended, as it does when it loses a stream.
        """
        return max(await asyncio.gather(*(_ask(process, version) for process in self._processes)))


async def _ask(process: asyncio.subprocess.Process, version: int) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"%d\n" % version)
    line = await process.stdout.readline()
    assert line, "clients failed"
    return float(line)


@asynccontextmanager
async def crowd(urls: Sequence[str], path: str, count: int) -> AsyncIterator[Crowd]:
    """Open `count` streams at each URL, from a process each; they end with the block."""
    # Each in a session of its own, like the servers: the kernel may share the processors out by session.
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.watchers", url, path, str(count), str(1 + number),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, start_new_session=True,
        )
        for number, url in enumerate(urls)
    ]  # fmt: skip
    try:
        opened = Crowd(processes)
        await opened.all_have(1)
        yield opened
    finally:
        for process in processes:
            process.stdin.close()
        await asyncio.gather(*(process.wait() for process in processes))


@click.command()
@click.argument("url")
@click.argument("path")
@click.argument("count", type=int)
@click.argument("net", type=int)
def main(url: str, path: str, count: int, net: int) -> None:
    """Open streams, then answer versions until standard input ends."""
    uvloop.run(_watch(url, path, count, net))


async def _watch(url: str, path: str, count: int, net: int) -> None:
    watchers = Watchers(url, path, net=net)
    await watchers.open(count)
    while line := await asyncio.to_thread(sys.stdin.readline):
        click.echo(await watchers.all_have(int(line)))


if __name__ == "__main__":
    main()
