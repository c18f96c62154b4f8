"""The control: the least that an ASGI app can do, on the same server with the same options as the API.

Any request is answered `hello`; `GET /stream` is held open and gets what `POST /change` is sent.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import click
import uvicorn
import uvloop

from flashsale.runtime.logs import tell_ready

BODY = b"hello"
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
STREAM = [(b"content-type", b"text/event-stream")]


class Hello:
    """The app."""

    def __init__(self) -> None:
        """Start without streams."""
        self.listeners: set[asyncio.Event] = set()
        self.message = b'id: 1\ndata: {"productId":1,"stock":50000,"version":1}\n\n'

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        if scope["type"] != "http":
            return
        if scope["path"] == "/stream":
            await self.stream(send)
            return
        if scope["path"] == "/change":
            self.message = (await receive())["body"]
            for listener in self.listeners:
                listener.set()
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})

    async def stream(self, send: Any) -> None:
        """Send a first message, and each change."""
        listener = asyncio.Event()
        self.listeners.add(listener)
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
        while True:
            await send({"type": "http.response.body", "body": self.message, "more_body": True})
            await listener.wait()
            listener.clear()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready_fd: int) -> None:
        super().__init__(config)
        self.ready_fd = ready_fd

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        tell_ready(self.ready_fd)


@click.command()
@click.option("--fd", type=int, required=True, help="Inherited listening socket.")
@click.option("--ready-fd", type=int, required=True, help="File descriptor that gets a line once it serves.")
def main(fd: int, ready_fd: int) -> None:
    """Serve until SIGTERM."""
    config = uvicorn.Config(
        Hello(),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=4096,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    uvloop.run(_Server(config, ready_fd).serve([socket.socket(fileno=fd)]))


if __name__ == "__main__":
    main()
