"""The product's server behind a proxy, in a process of its own: it answers with its address, and holds streams.

SIGUSR1 sends an event to every stream. SIGTERM ends it as it ends the API.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvloop

from flashsale.http.messages import rendered
from flashsale.http.server import Server
from flashsale.settings.edge import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from flashsale.http.messages import Answer, Request

LEAVE_S = 1.0


class App:
    """Streams at /sse/, an answer everywhere else."""

    def __init__(self, name: bytes) -> None:
        """Say this name."""
        self._name = name
        self.told = asyncio.Event()

    def direct(self, request: Request) -> Any:
        """Answer, or leave it to `framework`."""
        return None if request.path.startswith("/sse/") else self._answer()

    async def _answer(self) -> Answer:
        return rendered(200, self._name)

    def refused(self, problem: Answer) -> None:
        """Count nothing."""

    async def framework(self, _scope: Any, _receive: Any, send: Any) -> None:
        """Send an event, and one more for each SIGUSR1."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while True:
            told = self.told
            await send({"type": "http.response.body", "body": b"data: %b\n\n" % self._name, "more_body": True})
            await told.wait()

    def tell(self) -> None:
        """Let every stream send."""
        self.told.set()
        self.told = asyncio.Event()


async def _serve(address: str, port: int, ready: Connection) -> None:
    app = App(address.encode())
    server = Server(app, HttpSettings())
    await server.listen(socket.create_server((address, port), backlog=1024))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGUSR1, app.tell)
    ready.send("ready")
    await stopping.wait()
    await server.stop(leave_s=LEAVE_S, finish_s=LEAVE_S)


def _run(address: str, port: int, ready: Connection) -> None:
    uvloop.run(_serve(address, port, ready))


FORKS = multiprocessing.get_context("forkserver")
"""Forks of one process that has imported all: each is there at once."""
FORKS.set_forkserver_preload([__name__])


@contextmanager
def upstream_server(address: str, port: int) -> Iterator[int]:
    """Run it at an address of this machine; returns its process id."""
    ready, telling = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_run, args=(address, port, telling), daemon=True)
    process.start()
    telling.close()
    try:
        assert ready.recv() == "ready"
        assert process.pid is not None
        yield process.pid
    finally:
        ready.close()
        process.kill()
        process.join(10)
        process.close()
