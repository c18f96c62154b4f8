"""The server: listens on a socket, keeps its connections, and ends them when it stops."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from flashsale.http.connection import Connection

if TYPE_CHECKING:
    import contextvars
    import socket
    from collections.abc import Coroutine

    from flashsale.http.contracts import App
    from flashsale.settings.edge import HttpSettings

BACKLOG = 4096

READ_BYTES = 65_536
"""Maximum number of bytes per read of a connection, and so of the bytes that wait behind a request."""

FILES_KEPT = 100
"""Files that a process may open in addition to its clients' connections: to Postgres and Redis, and its logs."""

ASKED_MAX = 64
"""Maximum number of connections that are asked to give way to a new one."""


class Server:
    """Serves an app on one event loop."""

    def __init__(self, app: App, settings: HttpSettings) -> None:
        """Keep the limits."""
        self.app = app
        self.refused = app.refused
        self.head_bytes_max = settings.head_bytes_max
        self.body_bytes_max = settings.body_bytes_max
        self.request_timeout_s = settings.request_timeout_s
        self.keep_alive_s = settings.keep_alive_s
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.connections_max = max(1, min(settings.connections_max, files - FILES_KEPT))
        self.connections: OrderedDict[Connection, None] = OrderedDict()
        """Those that were asked to give way least lately come first."""
        self.draining = False
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.loop = asyncio.get_running_loop()
        self.date = b""
        self._empty = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._tick()

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a socket."""
        self._listener = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=BACKLOG)

    def spawn(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        """Run a coroutine for a connection; from Python 3.12 on, it runs at once up to its first wait."""
        if sys.version_info >= (3, 12):
            task = asyncio.Task(coroutine, loop=self.loop, context=context, eager_start=True)
        else:
            task = self.loop.create_task(coroutine, context=context)
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self, *, leave_s: float, finish_s: float) -> None:
        """Accept no more connections; end each one with its next answer; after `leave_s`, close idle connections.

        The delay gives clients time, because a request that is on its way to a closed connection is lost. Requests
        without an answer after another `finish_s` are dropped.
        """
        self.draining = True
        if self._listener is not None:
            self._listener.close()
            # Lets the event loop create the connections that were accepted before the close.
            await asyncio.sleep(0)
        await self._until_none_is_left(leave_s)
        for connection in tuple(self.connections):
            connection.close_idle()
        await self._until_none_is_left(finish_s)
        for connection in tuple(self.connections):
            connection.abort()
        if self._tasks:
            # Requests whose clients disconnected continue until then.
            await asyncio.wait(self._tasks, timeout=finish_s)
        self._ticking.cancel()

    def take(self, connection: Connection) -> bool:
        """Register a connection; False if there is no room and no other connection gives way."""
        if len(self.connections) >= self.connections_max and not self._make_room():
            return False
        self.connections[connection] = None
        return True

    def _make_room(self) -> bool:
        for _ in range(min(ASKED_MAX, len(self.connections))):
            asked = next(iter(self.connections))
            self.connections.move_to_end(asked)
            if asked.give_way():
                return True
        return False

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self.connections.pop(connection, None)
        if not self.connections:
            self._empty.set()

    async def _until_none_is_left(self, longest_s: float) -> None:
        if self.connections:
            self._empty.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(longest_s):
                    await self._empty.wait()

    def _tick(self) -> None:
        self.date = b"date: %b\r\n" % formatdate(usegmt=True).encode("ascii")
        self._ticking = self.loop.call_later(1 - time.time() % 1, self._tick)
