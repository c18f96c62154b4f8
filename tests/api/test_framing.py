"""Whose bytes are whose, and what a connection may cost: raw sockets against the stack's own server processes."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest

BUY = b"/api/order/buy-flash"
HOST = b"Host: x\r\n"


def place(stack):
    host, port = stack.base_url.removeprefix("http://").split(":")
    return host, int(port)


async def talk(stack, sent):
    """Send bytes, end, and read everything until the server ends."""
    reader, writer = await asyncio.open_connection(*place(stack))
    try:
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


def statuses(answers):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def look(token, order_id):
    path = f"/api/order/{order_id}/status".encode()
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"Authorization: " + token.encode() + b"\r\n\r\n"


UPGRADES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "nothing": b"Connection: Upgrade\r\n",
}


@pytest.mark.parametrize("offer", UPGRADES)
async def test_the_body_of_a_request_that_offers_an_upgrade_is_no_request(stack, admin, product, api, offer):
    product_id = await product()
    pause = b"POST /api/admin/products/%d/pause HTTP/1.1\r\nHost: x\r\nX-Ignore: " % product_id
    head = b"POST /api/auth/login HTTP/1.1\r\n" + HOST + UPGRADES[offer] + b"Content-Length: %d\r\n\r\n" % len(pause)
    # What a proxy that keeps connections sends next on this one: an administrator's look.
    token = b"Authorization: " + admin["Authorization"].encode() + b"\r\n"
    after = b"GET /api/admin/products/%d HTTP/1.1\r\n" % product_id + HOST + token + b"\r\n"
    answers = await talk(stack, head + pause + after)
    assert statuses(answers) == [415, 200], answers
    assert b'"paused":false' in answers
    assert not (await api.get(f"/api/admin/products/{product_id}", headers=admin)).json()["paused"]


async def test_a_token_in_a_trailer_opens_nothing(stack, buyer):
    body = b"2\r\n{}\r\n0\r\nAuthorization: " + buyer["Authorization"].encode() + b"\r\n\r\n"
    head = (
        b"POST "
        + BUY
        + b" HTTP/1.1\r\n"
        + HOST
        + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert statuses(await talk(stack, head + body)) == [401]


def resident(stack):
    """Return the largest resident memory of the API's processes, in MB."""
    sizes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"serve" in command and stack.environment_of("api")["FLASHSALE_POSTGRES__URL"].encode() in environment:
            sizes.append(int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
    assert sizes
    return max(sizes)


async def test_requests_of_clients_that_read_nothing_cost_little_memory(stack):
    request = b"GET /api/products HTTP/1.1\r\n" + HOST + b"\r\n"
    before = resident(stack)
    writers = []
    for _ in range(5):
        _, writer = await asyncio.open_connection(*place(stack), limit=1)
        cast("asyncio.Transport", writer.transport).pause_reading()
        writer.write(request * (8_000_000 // len(request)))
        writers.append(writer)
    sizes = []
    for _ in range(10):
        await asyncio.sleep(0.1)
        sizes.append(writers[0].transport.get_write_buffer_size())
    grown = resident(stack) - before
    for writer in writers:
        writer.transport.abort()
    assert sizes[-1] > 1_000_000, "the client keeps what the server does not read"
    assert grown < 20, f"{grown:.0f} MB for five connections of 8 MB each"


async def test_an_old_client_reads_a_stream_without_sizes_of_chunks(stack, product):
    product_id = await product()
    reader, writer = await asyncio.open_connection(*place(stack))
    writer.write(b"GET /sse/stock/%d HTTP/1.0\r\n\r\n" % product_id)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    lines = [await reader.readline() for _ in range(4)]
    writer.close()
    assert [line.partition(b":")[0] for line in lines] == [b"retry", b"\n", b"id", b"data"]


async def test_a_blank_after_a_key_is_no_part_of_it(stack, buyer, product):
    body = json.dumps({"productId": await product()}).encode()
    token = b"Authorization: " + buyer["Authorization"].encode() + b"\r\nContent-Type: application/json\r\n"
    ids = set()
    for value in (b"a1", b" a1 ", b"\ta1\t "):
        head = b"POST " + BUY + b" HTTP/1.1\r\n" + HOST + token + b"Idempotency-Key:" + value + b"\r\n"
        answers = await talk(stack, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert statuses(answers) == [202], answers
        ids.add(re.findall(rb'"orderId":"([^"]+)"', answers)[0])
    assert len(ids) == 1


JAVA = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

class Post {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            var request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[1])).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""
"""Three requests of a client with default settings, which offers h2c with each body."""

LOGIN = '{"email":"no@body.example","password":"wrong wrong"}'


def curl(folder, url):
    head = ["curl", "-s", "--http2", "-X", "POST", "-H", "Content-Type: application/json", "-w", "%{http_code}\n", "-o"]
    # Three requests over one connection.
    return [*head[:-1], *["-o", "/dev/null"] * 3, "--data", LOGIN, url, url, url]


def java(folder, url):
    (folder / "Post.java").write_text(JAVA)
    # The C1 compiler alone and one collector thread: it lives for three requests.
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", str(folder / "Post.java"), url, LOGIN]


@pytest.mark.parametrize("client", [curl, java], ids=["curl", "java"])
def test_a_client_that_offers_http_2_can_post(stack, tmp_path, client):
    if shutil.which(client.__name__) is None:
        pytest.skip(f"needs {client.__name__}")
    command = client(tmp_path, f"{stack.base_url}/api/auth/login")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["401"] * 3, done.stdout + done.stderr


REFUSED = {
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400),
    "gzip, chunked": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "both framings": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n" * 2 + b"\r\nx", 400),
    "LF": (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    "a folded field": (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n z\r\n\r\n", 400),
    "NUL": (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\x00\r\n\r\n", 400),
    "a long head": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 20_000 + b"\r\n\r\n", 431),
    "a long body": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 20000\r\n\r\n", 413),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_no_request_is_a_problem_and_the_end(stack, what):
    sent, status = REFUSED[what]
    answers = await talk(stack, sent + b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n")
    assert statuses(answers) == [status], answers
    head, _, body = answers.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status
