"""nginx as it is shipped: what it says itself is a problem document like the API's."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from flashsale.http.routes.problem_pages import MEANINGS
from flashsale.local.access import free_port
from tests.nginx_problems import FILE, written

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
SHIPPED = FILE.parent
ZONES = {"ACCOUNT_REQUESTS_PER_S": "20", "ADDRESS_REQUESTS_PER_S": "5000", "ADDRESS_LOGINS_PER_S": "5"}

needs_nginx = pytest.mark.skipif(NGINX is None, reason="needs nginx")


def test_the_documents_are_those_of_the_api():
    assert FILE.read_text() == written(), "run `python -m tests.nginx_problems`"


class Edge:
    """The shipped configuration on ports of this machine, before upstreams that are told how to behave."""

    def __init__(self, folder: Path, **environment: str) -> None:
        """Make the files as `run` does, which finds its folders elsewhere here."""
        self.port, self.health, self.upstream = free_port(), free_port(), free_port()
        made = folder / "made"
        shutil.copytree(SHIPPED, folder / "nginx")
        for path in (folder / "nginx").iterdir():
            text = (
                path.read_text().replace("/run/flashsale", str(made)).replace("/etc/nginx/flashsale", str(path.parent))
            )
            text = text.replace("8080 backlog=8192", f"127.0.0.1:{self.port}").replace(
                "127.0.0.1:8081", f"127.0.0.1:{self.health}"
            )
            text = text.replace("/run/flashsale", str(made)).replace("worker_processes auto", "worker_processes 1")
            text = text.replace("/dev/stderr", str(folder / "error.log")).replace(
                "/dev/stdout", str(folder / "access.log")
            )
            text = re.sub(r"proxy_read_timeout \d+s", "proxy_read_timeout 1s", text)
            path.write_text(text)
        run = (folder / "nginx" / "run").read_text()
        # All that `run` makes; who follows the upstreams' names is not tried here.
        script = (
            run.partition("sh $here/refresh")[0]
            .replace(":8000;", f":{self.upstream};")
            .replace("server $upstream", "server 127.0.0.1")
        )
        variables = {**ZONES, "ADDRESS_CONNECTIONS": "5000", **environment}
        subprocess.run(["sh", "-c", script], env={"PATH": os.environ["PATH"], **variables}, check=True)
        self.log = folder / "access.log"
        command = [str(NGINX), "-c", str(folder / "nginx" / "nginx.conf"), "-g", "daemon off;"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.communicate(timeout=10)

    def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes; give status, headers and body of the first answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(data)
            with sock.makefile("rb") as file:
                status = int(file.readline().split()[1])
                headers = {}
                while line := file.readline().strip():
                    name, _, value = line.decode().partition(": ")
                    headers[name.lower()] = value
                return status, headers, file.read(int(headers.get("content-length", 0)))


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    made = Edge(tmp_path_factory.mktemp("edge"), HOSTS="shop.example")
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", made.port)).close()
            break
        except OSError:
            assert made.process.poll() is None, made.process.stderr.read()
            time.sleep(0.05)
    yield made
    made.close()


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


@needs_nginx
@pytest.mark.parametrize("name", OWN)
def test_what_nginx_says_itself_is_a_problem_document(edge, name):
    sent, status, code = OWN[name]
    answer = edge.send(sent)
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


@needs_nginx
def test_a_flood_of_one_account_or_of_logins_is_told_when_to_come_back(edge):
    flood = get("/api/products", "Authorization: Bearer one")
    answers = [edge.send(flood) for _ in range(80)]
    assert {status for status, _, _ in answers} == {429, 503}
    assert_problem(next(one for one in answers if one[0] == 429), 429, "rate_limited")
    logins = [edge.send(get("/api/auth/login", method="POST")) for _ in range(600)]
    assert_problem(next(one for one in logins if one[0] == 429), 429, "rate_limited")


@contextmanager
def upstream(edge, answer):
    """Take one connection in the API's place: send `answer` and close, or nothing while it is None."""
    with socket.create_server(("127.0.0.1", edge.upstream)) as server:
        done = threading.Event()

        def behave():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                if answer is None:
                    done.wait(10)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=behave)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(10)


BUY = get("/api/order/buy-flash", "Content-Length: 0", method="POST", host="shop.example")
"""A POST: nginx sends it once."""


@needs_nginx
@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", None], ids=["dies", "talks nonsense", "is silent"]
)
def test_an_api_that_gives_no_answer_is_unavailable(edge, answer):
    with upstream(edge, answer):
        assert_problem(edge.send(BUY), 503, "unavailable")


@needs_nginx
def test_what_the_api_says_passes_as_it_is(edge):
    own = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nown"
    with upstream(edge, own):
        status, headers, body = edge.send(BUY)
    assert (status, headers["content-type"], body) == (404, "text/x", b"own")
