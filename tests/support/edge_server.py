"""The product's server in a process of its own, with short limits and an app that answers at length, and slowly."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from flashsale.http.messages import rendered
from flashsale.http.server import Server
from flashsale.settings.edge import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashsale.http.messages import Answer, Request

ROOT = Path(__file__).parents[2]
REQUEST_TIMEOUT_S, KEEP_ALIVE_S, CONNECTIONS_MAX = 0.3, 0.4, 400
LARGE = 5_000_000


class App:
    """`/` says how many connections there are; `/large` is long; `/slow` takes its time; `/stream` never ends."""

    server: Server

    def direct(self, request: Request) -> Any:
        """Answer, or leave it to `framework`."""
        return None if request.path == "/stream" else self._answer(request)

    async def _answer(self, request: Request) -> Answer:
        if request.path == "/slow":
            await asyncio.sleep(2 * REQUEST_TIMEOUT_S)
        return rendered(200, b"x" * LARGE if request.path == "/large" else b"%d" % len(self.server.connections))

    def refused(self, problem: Answer) -> None:
        """Count nothing."""

    async def framework(self, _scope: Any, receive: Any, send: Any) -> None:
        """Stream without end, as fast as the client reads."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        gone = asyncio.ensure_future(self._gone(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": b"data: 1\n\n" * 20_000, "more_body": True})
            await asyncio.sleep(0.001)

    async def _gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


async def _serve(sock: socket.socket) -> None:
    app = App()
    limits = HttpSettings(
        request_timeout_s=REQUEST_TIMEOUT_S, keep_alive_s=KEEP_ALIVE_S, connections_max=CONNECTIONS_MAX
    )
    app.server = Server(app, limits)
    await app.server.listen(sock)
    await asyncio.Event().wait()


@contextmanager
def edge_server() -> Iterator[tuple[int, int]]:
    """Return port and process id."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        command = [sys.executable, "-m", "tests.support.edge_server", str(sock.fileno())]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[sock.fileno()], env=environment)
        port = sock.getsockname()[1]
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    uvloop.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
