"""The clients: connections that press as fast as they are answered, and streams that wait for a change."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW_S = 30.0
"""Longest time for the last answers."""

SOURCES = 20_000
"""Connections from one loopback address; further ones come from the next."""


@dataclass(slots=True)
class Pressed:
    """What came of it."""

    statuses: Counter[bytes] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lasted_s: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.lasted_s

    def percentile_ms(self, share: float) -> float:
        """Give the latency that `share` of the answers did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[int(share * (len(ordered) - 1))] * 1000


class _Presser(asyncio.Protocol):
    """One connection: the next request leaves when the answer to the last one is complete."""

    def __init__(self, requests: Iterator[bytes], pressed: Pressed, until_s: float) -> None:
        self.requests = requests
        self.pressed = pressed
        self.until_s = until_s
        self.buffer = b""
        self.sent_s = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.send()

    def send(self) -> None:
        now_s = time.perf_counter()
        request = next(self.requests, None) if now_s < self.until_s else None
        if request is None:
            self.transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self.sent_s = now_s
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data
        head = data.find(b"\r\n\r\n")
        if head >= 0:
            place = data.find(b"content-length: ", 0, head)
            end = head + 4 + int(data[place + 16 : data.find(b"\r", place)])
            if len(data) >= end:
                self.buffer = b""
                self.pressed.statuses[data[9:12]] += 1
                self.pressed.seconds.append(time.perf_counter() - self.sent_s)
                self.send()
                return
        self.buffer = data

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("closed"))


async def press(url: str, requests: Iterator[bytes], *, connections: int, seconds: float) -> Pressed:
    """Press over so many connections until `requests` end or `seconds` are over."""
    place = urlsplit(url)
    pressed = Pressed()
    began_s = time.perf_counter()
    loop = asyncio.get_running_loop()
    pressers = []
    for _ in range(connections):
        _, presser = await loop.create_connection(
            lambda: _Presser(requests, pressed, began_s + seconds), place.hostname, place.port
        )
        pressers.append(presser.done)
    async with asyncio.timeout(seconds + SLOW_S):
        await asyncio.gather(*pressers)
    pressed.lasted_s = time.perf_counter() - began_s
    return pressed


class _Watcher(asyncio.Protocol):
    def __init__(self, crowd: Watchers) -> None:
        self.crowd = crowd
        self.told = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.crowd.transports.append(transport)
        transport.write(self.crowd.request)

    def data_received(self, data: bytes) -> None:
        self.crowd.heard(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        self.crowd.lost += 1


class Watchers:
    """Streams that wait until each has seen a text."""

    def __init__(self, url: str, path: str) -> None:
        """Watch a path."""
        self.place = urlsplit(url)
        self.request = f"GET {path} HTTP/1.1\r\nHost: {self.place.netloc}\r\n\r\n".encode()
        self.transports: list[asyncio.Transport] = []
        self.lost = 0
        self._text = b"retry:"
        self._seen: set[_Watcher] = set()
        self._all = asyncio.Event()

    def heard(self, watcher: _Watcher, data: bytes) -> None:
        """Count who has seen the text."""
        if self._text in data:
            self._seen.add(watcher)
            if len(self._seen) >= len(self.transports):
                self._all.set()

    async def open(self, count: int) -> None:
        """Open streams and wait until each has begun."""
        loop = asyncio.get_running_loop()
        for first in range(0, count, 200):
            await asyncio.gather(
                *(
                    loop.create_connection(
                        lambda: _Watcher(self),
                        self.place.hostname,
                        self.place.port,
                        local_addr=(f"127.0.0.{2 + number // SOURCES}", 0),
                    )
                    for number in range(first, min(first + 200, count))
                )
            )
        await self.all_seen(b"retry:")

    def expect(self, text: bytes) -> None:
        """Begin to wait for another text."""
        self._text = text
        self._seen.clear()
        self._all.clear()

    async def all_seen(self, text: bytes) -> None:
        """Wait until each stream has seen the text that was expected last."""
        assert text == self._text
        async with asyncio.timeout(60):
            while len(self._seen) < len(self.transports):
                await self._all.wait()
                self._all.clear()

    def close(self) -> None:
        """Leave."""
        for transport in self.transports:
            transport.abort()
