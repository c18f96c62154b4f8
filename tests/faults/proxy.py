"""A TCP proxy on loopback that loses what a test tells it to: a request before the server has it, or its reply.

A trap springs once, at the first request that matches. Until it is released or cut, its connection stands still; so a
test can kill a process at exactly that point of its conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 65_536
SOON_S = 20.0
SSL_REQUEST = 80_877_103
"""Postgres: the length-prefixed code that a client sends before its startup message to ask for TLS."""


class Wire(Protocol):
    """Cuts what a client sends into parts, each with the text that traps are compared with."""

    def parts(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return (what to forward, what it says)."""
        ...


class PlainWire:
    """Redis and HTTP: a client waits for its answer before it sends again, so what arrives is compared as it is."""

    def parts(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return everything as one part."""
        yield data, data


class PostgresWire:
    """Postgres' messages (protocol 3.0): each Bind says the SQL that was prepared under its statement's name."""

    def __init__(self) -> None:
        """Begin before the startup message."""
        self._left = b""
        self._started = False
        self._statements: dict[bytes, bytes] = {}

    def parts(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return whole messages."""
        self._left += data
        while (message := self._take()) is not None:
            yield message, self._says(message)

    def _take(self) -> bytes | None:
        head = 1 if self._started else 0
        if len(self._left) < head + 4:
            return None
        (length,) = struct.unpack_from("!i", self._left, head)
        if len(self._left) < head + length:
            return None
        message, self._left = self._left[: head + length], self._left[head + length :]
        return message

    def _says(self, message: bytes) -> bytes:
        if not self._started:
            (code,) = struct.unpack_from("!i", message, 4)
            self._started = code != SSL_REQUEST
            return message if self._started else b""
        kind, fields = message[:1], message[5:].split(b"\x00", 2)
        if kind == b"P":
            self._statements[fields[0]] = fields[1]
        elif kind == b"B":
            return self._statements.get(fields[1], b"")
        elif kind == b"Q":
            return fields[0]
        return b""


class Trap:
    """Springs at the first request that says `what`, on a connection that began by saying `who`."""

    def __init__(self, what: bytes, *, reply: bool, who: bytes = b"") -> None:
        """Hold the request itself, or (`reply`) let it through and hold the answer."""
        self.what = what
        self.who = who
        self.reply = reply
        self.taken = False
        self._sprung = asyncio.Event()
        self._decided = asyncio.Event()
        self._cut = False

    async def sprung(self) -> None:
        """Wait until the request is here, or the server has answered it."""
        async with asyncio.timeout(SOON_S):
            await self._sprung.wait()

    def release(self) -> None:
        """Let it go on."""
        self._decided.set()

    def cut(self) -> None:
        """Lose what is held, and the connection with it."""
        self._cut = True
        self._decided.set()

    async def hold(self) -> None:
        """Spring, and wait for what the test decides; `ConnectionResetError` if it cuts."""
        self._sprung.set()
        await self._decided.wait()
        if self._cut:
            raise ConnectionResetError


class _Link:
    """One client's connection and its connection to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.held: Trap | None = None
        self.moving = asyncio.Event()
        self.moving.set()
        self.said = b""

    def close(self) -> None:
        for writer in self.writers:
            if writer.transport is not None:
                writer.transport.abort()


class Proxy:
    """An async context manager: inside, it listens and forwards to `target`."""

    def __init__(self, target: str = "", *, wire: Callable[[], Wire] = PlainWire) -> None:
        """Stand before the server of a URL; the target may be named later."""
        self.target = target
        self._wire = wire
        self._traps: list[Trap] = []
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._down = False
        self.heard: list[tuple[bytes, bytes]] | None = None
        """If it is a list: how the connection of each request began, and what the request says."""

    @property
    def url(self) -> str:
        """The target's URL with the proxy's address in it."""
        assert self._server is not None
        parts = urlsplit(self.target or "http://127.0.0.1")
        access = parts.netloc.rpartition("@")[0]
        port = self._server.sockets[0].getsockname()[1]
        return urlunsplit(parts._replace(netloc=f"{access}@127.0.0.1:{port}" if access else f"127.0.0.1:{port}"))

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut everything."""
        assert self._server is not None
        self._server.close()
        self.repair()
        self.down()

    def hold_request(self, what: bytes, *, who: bytes = b"") -> Trap:
        """Keep the first request that says `what` from the server; `who` as in `freeze`."""
        return self._set(Trap(what, reply=False, who=who))

    def hold_reply(self, what: bytes, *, who: bytes = b"") -> Trap:
        """Let the server answer the first request that says `what`, and keep the answer from the client."""
        return self._set(Trap(what, reply=True, who=who))

    def down(self) -> None:
        """Cut every connection and refuse new ones."""
        self._down = True
        for link in list(self._links):
            link.close()

    def up(self) -> None:
        """Take connections again."""
        self._down = False

    def repair(self) -> None:
        """Forget every trap, cut what stands still, and take connections again."""
        for trap in self._traps:
            trap.cut()
        self._traps.clear()
        for link in list(self._links):
            if not link.moving.is_set():
                link.close()
        self.up()

    def freeze(self, what: bytes) -> int:
        """Let nothing more through on connections that began by saying `what`; returns how many there are."""
        frozen = [link for link in self._links if what in link.said]
        for link in frozen:
            link.moving.clear()
        return len(frozen)

    def _set(self, trap: Trap) -> Trap:
        self._traps.append(trap)
        return trap

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self.target)
        if self._down or not parts.port:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._requests(link, reader, server_writer)),
            asyncio.ensure_future(self._replies(link, server_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            link.close()
            self._links.discard(link)

    async def _requests(self, link: _Link, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        wire = self._wire()
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                for part, says in wire.parts(data):
                    link.said = link.said or says
                    if self.heard is not None and says:
                        self.heard.append((link.said, says))
                    await link.moving.wait()
                    trap = self._springs(link, says)
                    if trap is not None and trap.reply:
                        link.held = trap
                    elif trap is not None:
                        await trap.hold()
                    server.write(part)
                await server.drain()

    async def _replies(self, link: _Link, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await link.moving.wait()
                if (trap := link.held) is not None:
                    link.held = None
                    await trap.hold()
                client.write(data)
                await client.drain()

    def _springs(self, link: _Link, says: bytes) -> Trap | None:
        for trap in self._traps:
            if not trap.taken and says and trap.what in says and trap.who in link.said:
                trap.taken = True
                return trap
        return None
