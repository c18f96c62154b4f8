"""nginx as it is shipped: what it says itself is a problem document like the API's."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import contextmanager

import pytest

from flashsale.http.routes.problem_pages import MEANINGS
from tests.nginx_problems import FILE, written
from tests.support.shipped_nginx import BINARIES, SHIPPED, shipped_nginx


def test_the_documents_are_those_of_the_api():
    assert FILE.read_text() == written(), "run `python -m tests.nginx_problems`"


def send(edge, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes; give status, headers and body of the first answer."""
    with socket.create_connection(("127.0.0.1", edge.port), timeout=60) as sock:
        sock.sendall(data)
        with sock.makefile("rb") as file:
            status = int(file.readline().split()[1])
            headers = {}
            while line := file.readline().strip():
                name, _, value = line.decode().partition(": ")
                headers[name.lower()] = value
            return status, headers, file.read(int(headers.get("content-length", 0)))


IMPATIENT = {
    name: re.sub(r"proxy_read_timeout \d+s", "proxy_read_timeout 1s", (SHIPPED / name).read_text())
    for name in ("nginx.conf", "locations.conf")
}


@pytest.fixture(scope="module", params=list(BINARIES.values()), ids=list(BINARIES))
def edge(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge")
    with shipped_nginx(folder, request.param, files=IMPATIENT, HOSTS="shop.example", ADDRESS_LOGINS_PER_S="5") as (
        made,
        _,
    ):
        yield made


def get(target: str, *headers: str, host: str = "localhost", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]).encode()


OWN = {
    "another path": (get("/elsewhere"), 404, "no_such_path"),
    "metrics": (get("/metrics"), 404, "no_such_path"),
    "another host": (get("/api/products", host="evil.example"), 404, "no_such_path"),
    "a problem's place": (get("/.problems/invalid_request"), 404, "no_such_path"),
    "TRACE": (get("/api/products", method="TRACE"), 405, "method_not_allowed"),
    "a long body": (get("/api/order/buy-flash", "Content-Length: 99999", method="POST"), 413, "body_too_large"),
    "a long target": (get("/" + "a" * 70_000), 414, "target_too_long"),
    "a long header": (get("/api/products", "X-Long: " + "a" * 70_000), 431, "head_too_large"),
    "many headers": (get("/api/products", *(f"X-{n}: {'a' * 9000}" for n in range(9))), 431, "head_too_large"),
    "no host": (b"GET /api/products HTTP/1.1\r\n\r\n", 400, "invalid_request"),
    "two hosts": (get("/api/products", "Host: localhost"), 400, "invalid_request"),
    "a host that is none": (get("/api/products", host="a b/c"), 400, "invalid_request"),
    "no method": (b"\x16\x03\x01\r\n\r\n", 400, "invalid_request"),
    "a version that is none": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, "invalid_request"),
    "another coding": (get("/api/products", "Transfer-Encoding: gzip", method="POST"), 400, "invalid_request"),
    "two lengths": (get("/api/a", "Content-Length: 1", "Content-Length: 2", method="POST"), 400, "invalid_request"),
    "a coding and a length": (
        get("/api/a", "Transfer-Encoding: chunked", "Content-Length: 2", method="POST"),
        400,
        "invalid_request",
    ),
    "a target that is none": (get("/%00"), 400, "invalid_request"),
    "a way out": (get("/../../etc/passwd"), 400, "invalid_request"),
    "nobody behind it": (get("/api/products"), 503, "unavailable"),
    "nobody behind streams": (get("/sse/stock/1"), 503, "unavailable"),
}


@pytest.mark.parametrize("name", OWN)
def test_what_nginx_says_itself_is_a_problem_document(edge, name):
    sent, status, code = OWN[name]
    answer = send(edge, sent)
    assert_problem(answer, status, code)


def assert_problem(answer, status, code):
    got, headers, body = answer
    document = json.loads(body)
    assert (got, document["status"], document["code"]) == (status, status, code)
    assert document["type"] == f"/problems/{code}"
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"]
    assert headers["x-content-type-options"] == "nosniff"
    assert MEANINGS[code][0] == status, "the page of this type says another status"
    assert ("retry-after" in headers) is (status in {429, 503})
    assert ("allow" in headers) is (status == 405)


def test_a_flood_of_one_account_or_of_logins_is_told_when_to_come_back(edge):
    flood = get("/api/products", "Authorization: Bearer one")
    answers = [send(edge, flood) for _ in range(80)]
    assert {status for status, _, _ in answers} == {429, 503}
    assert_problem(next(one for one in answers if one[0] == 429), 429, "rate_limited")
    logins = [send(edge, get("/api/auth/login", method="POST")) for _ in range(600)]
    assert_problem(next(one for one in logins if one[0] == 429), 429, "rate_limited")


@contextmanager
def upstream(edge, answer):
    """Take one connection in the API's place: send `answer` and close, or nothing while it is None; yield what came."""
    with socket.create_server(("127.0.0.1", edge.upstream), reuse_port=True) as server:
        done, seen = threading.Event(), []

        def behave():
            connection, _ = server.accept()
            with connection:
                seen.append(connection.recv(4096))
                if answer is None:
                    done.wait(10)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=behave)
        thread.start()
        try:
            yield seen
        finally:
            done.set()
            thread.join(10)


BUY = get("/api/order/buy-flash", "Content-Length: 0", method="POST", host="shop.example")
"""A POST: nginx sends it once."""


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", None], ids=["dies", "talks nonsense", "is silent"]
)
def test_an_api_that_gives_no_answer_is_unavailable(edge, answer):
    with upstream(edge, answer):
        assert_problem(send(edge, BUY), 503, "unavailable")


def test_what_the_api_says_passes_as_it_is(edge):
    own = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nown"
    with upstream(edge, own):
        status, headers, body = send(edge, BUY)
    assert (status, headers["content-type"], body) == (404, "text/x", b"own")
