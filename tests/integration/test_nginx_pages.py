"""nginx as it is shipped, before the pages: what it keeps, what it compresses, and what it leaves alone."""

from __future__ import annotations

import gzip
import json
import socket
import time

import pytest

from flashsale.pages.storefront.shop import MISSING, PUBLIC
from tests.integration.test_nginx import IMPATIENT, get, upstream
from tests.support.shipped_nginx import BINARIES, SHIPPED, shipped_nginx

HTML = b"<!doctype html><title>A phone</title>" + b"<p>A phone that is sold at ten.</p>" * 60
GZIP = "Accept-Encoding: gzip"
STALE_S = 1.5
"""More than the age at which the copy of the test is too old."""


@pytest.fixture(scope="module", params=list(BINARIES.values()), ids=list(BINARIES))
def edge(request, tmp_path_factory):
    with shipped_nginx(tmp_path_factory.mktemp("pages"), request.param, files=IMPATIENT) as (made, _):
        yield made


def answer(body=HTML, *headers, kind="text/html; charset=utf-8", status="200 OK"):
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*lines, "X-Request-ID: of-the-api", *headers, "", ""]).encode() + body


def ask(edge, path, *headers):
    """Return status, headers and the whole body, whatever its coding."""
    with socket.create_connection(("127.0.0.1", edge.port), timeout=60) as sock:
        sock.sendall(get(path, *headers))
        with sock.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields: dict[str, str] = {}
    for name, value in (line.lower().split(": ", 1) for line in lines):
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    if fields.get("transfer-encoding") == "chunked":
        size, _, rest = body.partition(b"\r\n")
        body = rest[: int(size, 16)]
    return int(status.split()[1]), fields, body


@pytest.mark.parametrize("path", ["/", "/p/7", "/assets/0a1b/shop.css"])
def test_a_page_of_the_storefront_is_asked_of_the_api_once(edge, path):
    with upstream(edge, answer(HTML, "Cache-Control: public, max-age=60", "Vary: Accept-Language")):
        first = ask(edge, path, GZIP)
    second = ask(edge, path, GZIP)
    for status, headers, body in (first, second):
        assert (status, headers["content-encoding"], gzip.decompress(body)) == (200, "gzip", HTML)
        assert "accept-encoding" in headers["vary"]
    assert first[1]["x-request-id"] != second[1]["x-request-id"]
    assert "of-the-api" not in second[1]["x-request-id"]
    assert ask(edge, path, "Accept-Language: de")[0] == 503, "another language is another copy"


@pytest.mark.parametrize(
    "path",
    ["/p/7/buy", "/orders", "/order/1", "/sign-in", "/register", "/password", "/session", "/console", "/console/x"],
)
def test_a_page_of_one_visitor_is_never_kept(edge, path):
    with upstream(edge, answer(HTML, "Cache-Control: public, max-age=60")):
        assert ask(edge, path)[0] == 200
    assert ask(edge, path)[0] == 503


def test_an_answer_that_the_api_forbids_to_store_is_not_kept(edge):
    with upstream(edge, answer(HTML, "Cache-Control: no-store")):
        assert ask(edge, "/p/8")[0] == 200
    assert ask(edge, "/p/8")[0] == 503


def test_a_page_opens_while_no_process_of_the_api_answers(edge):
    with upstream(edge, answer(HTML, "Cache-Control: public, max-age=1")):
        assert ask(edge, "/p/9")[0] == 200
    until_s = time.monotonic() + STALE_S
    while time.monotonic() < until_s:
        status, _, body = ask(edge, "/p/9")
        assert (status, body) == (200, HTML)
        time.sleep(0.1)  # each second has a second's worth of answers


def stale(seconds):
    """Headers of a page whose copy has been too old for so long."""
    return f"Cache-Control: {PUBLIC.decode()}", f"X-Accel-Expires: @{int(time.time()) - seconds}"


def test_after_a_quiet_time_the_first_visitor_gets_the_present_page(edge):
    with upstream(edge, answer(HTML, *stale(70))):
        assert ask(edge, "/p/10")[2] == HTML
    assert ask(edge, "/p/10")[2] == HTML, "while no process answers"
    with upstream(edge, answer(b"the new price", "Cache-Control: no-store")):
        assert ask(edge, "/p/10")[2] == b"the new price"


def test_a_page_that_is_gone_takes_the_place_of_its_copy(edge):
    with upstream(edge, answer(HTML, *stale(5))):
        assert ask(edge, "/p/11")[0] == 200
    with upstream(edge, answer(b"gone", f"Cache-Control: {MISSING.decode()}", status="404 Not Found")):
        assert ask(edge, "/p/11")[2] == HTML, "the old one, while nginx asks for the new one"
    until_s = time.monotonic() + 30
    while ask(edge, "/p/11")[::2] != (404, b"gone"):
        assert time.monotonic() < until_s


@pytest.mark.parametrize(
    ("said", "scheme"), [((), "http"), (("X-Forwarded-Proto: https",), "https"), (("X-Forwarded-Proto: x",), "http")]
)
@pytest.mark.parametrize("path", ["/p/12", "/orders", "/api/products"])
def test_a_load_balancer_that_ends_tls_says_so(edge, path, said, scheme):
    with upstream(edge, answer(HTML, "Cache-Control: no-store")) as seen:
        _, headers, _ = ask(edge, path, *said)
    assert f"\r\nX-Forwarded-Proto: {scheme}\r\n" in seen[0].decode()
    assert ("strict-transport-security" in headers) == (scheme == "https")


def test_a_tag_of_the_administration_stays_strong_and_others_may_become_weak(edge):
    document = json.dumps({"name": "N" * 2000}).encode()
    said = answer(document, 'ETag: "a1"', kind="application/json")
    with upstream(edge, said):
        _, headers, body = ask(edge, "/api/admin/products/7", GZIP)
    assert (headers["etag"], body) == ('"a1"', document)
    with upstream(edge, said):
        _, headers, body = ask(edge, "/api/products", GZIP)
    assert headers["etag"] == 'w/"a1"'
    assert gzip.decompress(body) == document


@pytest.mark.parametrize("binary", list(BINARIES.values()), ids=list(BINARIES))
def test_the_console_is_kept_to_a_network_by_its_location_and_buyers_notice_nothing(tmp_path, binary):
    locations, console = (SHIPPED / "locations.conf").read_text(), "location ~ ^/console(/|$) {"
    assert locations.count(console) == 1
    kept = {**IMPATIENT, "locations.conf": locations.replace(console, f"{console} allow 192.0.2.7; deny all;")}
    with shipped_nginx(tmp_path, binary, files=kept) as (edge, _):
        for path in ("/console", "/console/", "/console/orders", "/console/sign-in", "/console/password"):
            assert ask(edge, path)[0] == 404, path
        for path in ("/", "/p/7", "/p/7/buy", "/orders", "/sign-in", "/register", "/password", "/session"):
            assert ask(edge, path)[0] == 503, "asked of the API, which is away here"
