"""Answers for files: sent part by part, and never taken for whole if they are not."""

import asyncio
import socket
from contextlib import asynccontextmanager, suppress

from flashsale.http.server import Server
from flashsale.settings.edge import HttpSettings

TIMEOUT_S = 0.5
PARTS = [b"", b"a" * 10, b"", b"b" * 5000]


class App:
    """Sends parts, and then ends, fails or goes on for ever."""

    def __init__(self):
        self.stopped = asyncio.Event()

    def direct(self, _request):
        return None

    def refused(self, problem):
        pass

    async def framework(self, scope, _receive, send):
        headers = [(b"content-type", b"text/csv"), (b"content-disposition", b"attachment")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in PARTS:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if scope["path"] == "/fails":
            raise RuntimeError
        if scope["path"] == "/endless":
            try:
                for _ in range(1000):
                    await send({"type": "http.response.body", "body": b"c" * 100_000, "more_body": True})
            finally:
                self.stopped.set()
        await send({"type": "http.response.body", "body": b"end", "more_body": False})


@asynccontextmanager
async def serving():
    app = App()
    server = Server(app, HttpSettings(request_timeout_s=TIMEOUT_S))
    sock = socket.create_server(("127.0.0.1", 0))
    await server.listen(sock)
    try:
        yield app, sock.getsockname()[1]
    finally:
        await server.stop(leave_s=0, finish_s=1)


async def got(port, path, method="GET", version="1.1"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/{version}\r\nhost: a\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = b"" if method == "HEAD" else await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
    return head, body


def joined(body):
    """Join the chunks; returns the body, and whether it is whole."""
    text = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return text, body == b"\r\n"
        text, body = text + body[:length], body[length + 2 :]
    return text, False


async def test_a_body_in_parts_ends_with_the_last_chunk_only_if_the_app_ended_it():
    async with serving() as (_, port):
        head, body = await got(port, "/whole")
        assert "transfer-encoding: chunked\r\n" in head
        assert "content-length" not in head
        assert joined(body) == (b"".join(PARTS) + b"end", True)
        head, body = await got(port, "/fails")
        assert joined(body) == (b"".join(PARTS), False)
        looked, _ = await got(port, "/whole", "HEAD")
        assert "transfer-encoding: chunked\r\n" in looked


async def test_a_client_of_the_older_version_gets_no_chunks():
    async with serving() as (_, port):
        head, body = await got(port, "/whole", version="1.0")
        assert "transfer-encoding" not in head
        assert body == b"".join(PARTS) + b"end"


async def test_a_client_that_reads_nothing_is_given_up():
    async with serving() as (app, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.wait_for(app.stopped.wait(), 60)
            client.settimeout(10)
            read = 0
            with suppress(ConnectionResetError):
                while part := client.recv(2**20):
                    read += len(part)
            assert read < 1000 * 100_000 / 2
