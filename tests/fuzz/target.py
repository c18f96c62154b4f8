"""What the fuzz sends to: the product's server with an app that says what it was asked, and an nginx before it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha1
from typing import TYPE_CHECKING, Any

import structlog

from flashsale.http.messages import rendered
from flashsale.http.server import Server
from flashsale.settings.edge import HttpSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from flashsale.http.messages import Answer, Request

HEAD_MAX, BODY_MAX = 2048, 4096
NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else None)  # noqa: PTH110

NGINX_CONF = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  underscores_in_headers on; ignore_invalid_headers off; large_client_header_buffers 4 16k; client_max_body_size 0;
  client_header_timeout 1s; client_body_timeout 1s; lingering_timeout 1s;
  proxy_http_version 1.1; proxy_next_upstream off; proxy_ignore_client_abort on;
  add_header X-Edge-Answer $connection.$connection_requests always;
  upstream app {{ server 127.0.0.1:{app}; keepalive 1; }}
  # Holds bodies back until they are complete, and keeps the connection's fields to itself.
  server {{ listen 127.0.0.1:{whole}; location / {{ {edge} proxy_set_header Connection ""; }} }}
  # Forwards everything as it comes.
  server {{
    listen 127.0.0.1:{parts};
    location / {{
      {edge} proxy_request_buffering off; proxy_buffering off;
      proxy_set_header Connection $http_connection; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Host $http_host; proxy_set_header Expect $http_expect; proxy_set_header TE $http_te;
    }}
  }}
}}
"""

EDGE = "proxy_pass http://app; proxy_set_header X-Edge $connection.$connection_requests;"
"""Tells the app what nginx calls a request; nginx says the same in its answer."""


def echo(method: bytes, target: bytes, body: bytes) -> bytes:
    """Name a request: what it asks for, and what belongs to it."""
    return b"%b %b %d %b" % (method, target, len(body), sha1(body, usedforsecurity=False).hexdigest()[:8].encode())


class Echo:
    """Answers each request with its name and with what nginx called it."""

    def __init__(self) -> None:
        """Start without requests."""
        self.edges: list[bytes] = []
        """What nginx called the requests, in the order of their arrival."""
        self.refusals = 0
        self.faults: list[str] = []

    def direct(self, request: Request) -> Any:
        """Answer at once, later, or through ASGI, by the target."""
        self.edges.append(request.fields.get(b"x-edge", b""))
        if request.path.endswith("7"):
            return None
        return self._answer(request)

    async def _answer(self, request: Request) -> Answer:
        if request.path.endswith("3"):
            await asyncio.sleep(0)
        named = echo(request.method.encode(), _target(request.path, request.query), request.body)
        size = len(request.body) % 50
        return rendered(
            200, b"GET /x\r\n\r\n" * size, (b"x-echo", named), (b"x-edge", request.fields.get(b"x-edge", b""))
        )

    def refused(self, problem: Answer) -> None:
        """Count what was no request."""
        self.refusals += 1

    async def framework(self, scope: Any, receive: Any, send: Any) -> None:
        """Do the same as an ASGI app."""
        fields = dict(scope["headers"])
        body = (await receive())["body"]
        # A look at the head comes as a look at the whole.
        named = echo(scope["method"].encode(), _target(scope["path"], scope["query_string"]), body)
        headers = [(b"x-echo", named), (b"x-edge", fields.get(b"x-edge", b"")), (b"content-length", b"%d" % len(named))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": named[:4], "more_body": True})
        await send({"type": "http.response.body", "body": named[4:]})

    def note(self, _loop: Any, context: dict[str, Any]) -> None:
        """Keep what the event loop was told of."""
        self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")


def _target(path: str, query: bytes) -> bytes:
    return path.encode("utf-8", "replace") + (b"?" + query if query else b"")


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Echo, int]]:
    """Return the app and its port; what is logged as an error is a fault."""
    app = Echo()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(app.note)

    def keep(_logger: Any, name: str, event: Any) -> Any:
        if name in {"error", "exception", "critical", "warning"}:
            app.faults.append(str(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], cache_logger_on_first_use=False)
    server = Server(app, HttpSettings(head_bytes_max=HEAD_MAX, body_bytes_max=BODY_MAX, request_timeout_s=5))
    sock = socket.create_server(("127.0.0.1", 0))
    await server.listen(sock)
    try:
        yield app, sock.getsockname()[1]
    finally:
        await server.stop(leave_s=0, finish_s=0.2)
        structlog.configure(**before)


@contextmanager
def nginx(folder: Path, app: int) -> Iterator[tuple[int, int]]:
    """Return the ports of an nginx that forwards to the app: bodies whole, and as they come."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=folder, app=app, edge=EDGE, whole=ports[0], parts=ports[1]))
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        for port in ports:
            _reach(port, process)
        yield ports[0], ports[1]
    finally:
        process.terminate()
        process.wait(10)


def _reach(port: int, process: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert process.poll() is None, "nginx did not start"
        else:
            return
