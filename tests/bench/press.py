"""The client: connections that press as fast as they are answered."""

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


@dataclass(slots=True)
class Pressed:
    """What came of it."""

    statuses: Counter[bytes] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """How long each answer took, in the order in which they came."""
    at_s: list[float] = field(default_factory=list)
    """When they came, from the begin."""
    last_s: dict[bytes, float] = field(default_factory=dict)
    """When the last answer with a status came."""
    began_s: float = field(default_factory=time.perf_counter)
    lasted_s: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.lasted_s

    def percentile_ms(self, share: float) -> float:
        """Return the latency that `share` of the answers did not exceed."""
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
                now_s, pressed, status = time.perf_counter(), self.pressed, data[9:12]
                pressed.statuses[status] += 1
                pressed.seconds.append(now_s - self.sent_s)
                pressed.at_s.append(now_s - pressed.began_s)
                pressed.last_s[status] = now_s - pressed.began_s
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
    loop = asyncio.get_running_loop()
    pressers = []
    for _ in range(connections):
        _, presser = await loop.create_connection(
            lambda: _Presser(requests, pressed, pressed.began_s + seconds), place.hostname, place.port
        )
        pressers.append(presser.done)
    async with asyncio.timeout(seconds + SLOW_S):
        await asyncio.gather(*pressers)
    pressed.lasted_s = time.perf_counter() - pressed.began_s
    return pressed
