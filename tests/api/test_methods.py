"""What every route promises for every method, generated from the routing table over real connections."""

import re
import uuid

import httpx
import pytest

from tests.support.api import waiting_order
from tests.support.reference import required

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OTHER = ["/problems/sold_out", "/schema", "/schema/openapi.json"]
VOLATILE = {"date", "x-request-id", "ratelimit"}
"""What may differ between two answers to the same request."""

OF_NOW = {"/metrics", "/health/ready", "/api/admin/status"}
"""What changes from one answer to the next; so do the length and the tag."""

ORIGIN = {"Origin": "https://shop.example"}


@pytest.fixture
async def paths(api, product, buyer):
    """Every path of the document, and the others, with ids of what exists."""
    product_id = await product(paymentMode="by_buyer")
    order_id = await waiting_order(api, product_id, buyer)
    documented = (await api.get("/schema/openapi.json")).json()["paths"]
    assert len(documented) > 15
    ids = {"product_id": product_id, "order_id": order_id, "code": "sold_out", "provider": "stripe", "number": 1}
    ids["user_id"] = uuid.uuid4()
    return [
        re.sub(r"\{(\w+)\}", lambda found: str(ids[found[1]]), path) + required(item.get("get", {}))
        for path, item in documented.items()
    ] + OTHER


def caller(path, admin):
    """Give the administrator's headers, none for accounts: to sign out there would end the token for all tests."""
    return {} if path.startswith("/api/auth/") else admin


async def head_of(api, method, path, headers):
    """Return status and headers without waiting for the end of a stream."""
    async with api.stream(method, path, headers=headers) as answer:
        body = b"" if answer.headers.get("content-type") == "text/event-stream" else await answer.aread()
        return answer.status_code, answer.headers, body


async def test_options_names_exactly_the_methods_that_are_taken(api, paths, admin):
    for path in paths:
        status, headers, _ = await head_of(api, "OPTIONS", path, {})
        assert status == 204, path
        allowed = set(headers["allow"].split(", "))
        for method in METHODS:
            status, headers, body = await head_of(api, method, path, caller(path, admin))
            assert (status == 405) == (method not in allowed), (method, path, status)
            assert "date" in headers, (method, path)
            assert headers["x-content-type-options"] == "nosniff"
            if status == 405:
                assert set(headers["allow"].split(", ")) == allowed
            if method == "HEAD":
                assert not body


async def test_a_look_at_the_head_gives_what_a_get_gives(api, paths, admin, buyer):
    looked = 0
    for path in paths:
        if "GET" not in (await api.options(path)).headers["allow"].split(", "):
            continue
        headers = buyer if path.startswith(("/api/order", "/sse/orders")) else admin
        got, seen = [await head_of(api, method, path, headers) for method in ("GET", "HEAD")]
        assert got[0] == seen[0] == 200, path
        volatile = VOLATILE | ({"content-length", "etag"} if path in OF_NOW else set())
        streams = "event-stream" in got[1]["content-type"] or "content-disposition" in got[1]
        assert got[1].keys() == seen[1].keys() or streams, path
        shown = [{name: value for name, value in one[1].items() if name not in volatile} for one in (got, seen)]
        if streams:
            # Only a stream ends with its connection.
            shown[0].pop("connection", None)
        assert shown[0] == shown[1], path
        looked += 1
    assert looked >= 10


async def test_every_route_answers_a_preflight_and_lets_the_page_read_the_answer(api, paths, admin):
    for path in paths:
        allowed = (await api.options(path)).headers["allow"]
        for method in allowed.split(", "):
            asked = {**ORIGIN, "Access-Control-Request-Method": method,
                     "Access-Control-Request-Headers": "authorization, last-event-id, idempotency-key"}  # fmt: skip
            answer = await api.options(path, headers=asked)
            assert answer.status_code == 204
            assert answer.headers["access-control-allow-origin"] == ORIGIN["Origin"]
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert method in answer.headers["access-control-allow-methods"].split(", ")
            taken = set(answer.headers["access-control-allow-headers"].split(", "))
            assert taken >= {"authorization", "last-event-id", "idempotency-key", "if-match", "if-none-match"}
            if method != "OPTIONS":
                _, headers, _ = await head_of(api, method, path, {**caller(path, admin), **ORIGIN})
                assert headers["access-control-allow-origin"] == ORIGIN["Origin"], (method, path)
                assert "etag" in headers["access-control-expose-headers"]
                assert "origin" in headers["vary"]
        answer = await api.options(
            path, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
        )
        assert not [name for name in answer.headers if name.startswith("access-control-")], path


async def test_a_foreign_page_may_read_nothing(api, paths):
    for path in paths:
        _, headers, _ = await head_of(api, "GET", path, {"Origin": "https://evil.example"})
        assert not [name for name in headers if name.startswith("access-control-")], path


async def test_unknown_paths_have_no_methods(api):
    for method in METHODS:
        answer = await api.request(method, "/api/nothing")
        assert (answer.status_code, "date" in answer.headers) == (404, True)


async def test_heads_of_streams_leave_nothing_open(stack, product):
    product_id = await product()
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=60) as client:
        for _ in range(30):
            answer = await client.head(f"/sse/stock/{product_id}")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        metrics = (await client.get("/metrics")).text
        open_streams = re.search(r'^flashsale_streams\{kind="stock"\} (\S+)', metrics, re.MULTILINE)
        assert open_streams
        assert float(open_streams[1]) < 30
