"""Who may do what, and what hostile input does: nothing."""

import asyncio
import base64
import json
import re
import time
import uuid
from urllib.parse import quote

import httpx
import jwt
import pytest

from flashsale.bootstrap.api import open_services
from flashsale.domain.users import Principal, Role
from flashsale.http.app import build_app
from flashsale.http.auth import Tokens
from flashsale.http.streams.hub import LiveHub
from flashsale.settings.edge import AuthSettings
from tests.conftest import add_buyers, add_product, make_settings
from tests.support.api import BUY, final, waiting_order
from tests.support.provider import NAME, Provider

REFUND = "POST /api/admin/orders/{order_id}/refunds"

EVERYBODY = (200, 200, 200, 200)
ADMINS = (401, 403, 403, 200)
MATRIX = {
    "GET /health/live": EVERYBODY,
    "GET /health/ready": EVERYBODY,
    "GET /metrics": EVERYBODY,
    "GET /schema": EVERYBODY,
    "GET /schema/openapi.json": EVERYBODY,
    "GET /problems/{code}": EVERYBODY,
    "GET /api/products": EVERYBODY,
    "GET /api/products/{product_id}": EVERYBODY,
    "GET /sse/stock/{product_id}": EVERYBODY,
    "POST /api/auth/login": EVERYBODY,
    "POST /api/auth/register": (201, 201, 201, 201),
    "POST /api/auth/logout": (401, 204, 204, 204),
    "POST /api/auth/password": (401, 200, 200, 200),
    "POST /api/auth/reset": (204, 204, 204, 204),
    "POST /api/auth/forgot": (202, 202, 202, 202),
    "POST /api/order/buy-flash": (401, 202, 202, 202),
    "GET /api/orders": (401, 200, 200, 200),
    "GET /api/order/{order_id}/status": (401, 404, 200, 200),
    "GET /sse/orders/{order_id}": (401, 404, 200, 200),
    "POST /api/order/{order_id}/stream-token": (401, 404, 201, 201),
    "POST /api/order/{order_id}/pay": (401, 404, 202, 404),
    "POST /api/order/{order_id}/cancel": (401, 404, 200, 404),
    # The product of this test lets no buyer ask for a refund.
    "POST /api/order/{order_id}/refund": (401, 404, 409, 404),
    # The signature, and no token, decides about a webhook; the stack's provider sends none.
    "POST /api/webhooks/{provider}": (404, 404, 404, 404),
    "GET /api/admin/orders": ADMINS,
    "GET /api/admin/orders/{order_id}": ADMINS,
    "GET /api/admin/orders/{order_id}/refunds": ADMINS,
    REFUND: (401, 403, 403, 202),
    "GET /api/admin/orders/export": ADMINS,
    "POST /api/admin/orders/{order_id}/cancel": ADMINS,
    # The stack's provider records payments and refunds itself.
    "POST /api/admin/orders/{order_id}/paid": (401, 403, 403, 409),
    "POST /api/admin/orders/{order_id}/refunds/{number}/paid": (401, 403, 403, 409),
    # The order has no refund.
    "POST /api/admin/orders/{order_id}/refunds/{number}/withdraw": (401, 403, 403, 404),
    "GET /api/admin/books": ADMINS,
    "GET /api/admin/buyers": ADMINS,
    "POST /api/admin/buyers/{user_id}/erase": ADMINS,
    "GET /api/admin/trail": ADMINS,
    "GET /api/admin/status": ADMINS,
    "GET /api/admin/products": ADMINS,
    "GET /api/admin/products/{product_id}": ADMINS,
    "PATCH /api/admin/products/{product_id}": ADMINS,
    "POST /api/admin/products": (401, 403, 403, 201),
    "POST /api/admin/products/{product_id}/pause": ADMINS,
    "POST /api/admin/products/{product_id}/resume": ADMINS,
    "POST /api/admin/products/{product_id}/close": ADMINS,
    # The product is on sale.
    "POST /api/admin/products/{product_id}/archive": (401, 403, 403, 409),
    "POST /api/admin/products/{product_id}/stock": ADMINS,
    "POST /api/admin/stock": ADMINS,
}
"""The answers to anonymous, another buyer, the order's owner, an administrator."""


@pytest.fixture(scope="module")
def two_buyers(make_buyers):
    return make_buyers(2)


@pytest.fixture
def buyer(two_buyers):
    """One who leaves the buyers of other modules alone."""
    return two_buyers[0]


async def routes(api):
    """Read every route of the document, and whether it says that a token is needed."""
    paths = (await api.get("/schema/openapi.json")).json()["paths"]
    return {
        f"{method.upper()} {path}": bool(operation.get("security"))
        for path, item in paths.items()
        for method, operation in item.items()
        if method in {"get", "put", "post", "patch", "delete", "head", "options", "trace"}
    }


async def status_of(api, method, path, **request):
    """Return a status without waiting for the end of a stream."""
    async with api.stream(method, path, **request) as answer:
        return answer.status_code


async def test_the_matrix_names_every_route_and_the_document_who_needs_a_token(api):
    found = await routes(api)
    assert set(found) == set(MATRIX)
    assert found == {route: answers[0] == 401 for route, answers in MATRIX.items()}


async def new_caller(api, stack, path, *, anonymous):
    """Register; gives headers and the body for a route that ends tokens."""
    account = {"name": "Ada", "email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}
    made = (await api.post("/api/auth/register", json=account)).json()
    principal = Principal(user_id=uuid.UUID(made["user"]["id"]), role=Role.BUYER)
    tokens = Tokens(AuthSettings(jwt_secret=stack.secrets["jwt_secret"]))
    bodies = {
        "/api/auth/logout": None,
        "/api/auth/password": {"oldPassword": account["password"], "newPassword": "another horse"},
        "/api/auth/reset": {"token": tokens.issue_reset(principal), "password": "another horse"},
    }
    return {} if anonymous else {"Authorization": f"Bearer {made['token']}"}, bodies[path]


@pytest.mark.parametrize("route", MATRIX)
async def test_everybody_may_do_what_the_matrix_says_and_no_more(
    api, product, two_buyers, admin, database, stack, route
):
    owner, other = two_buyers
    product_id = await product(paymentMode="by_buyer")
    order_id = await waiting_order(api, product_id, owner) if "{order_id}" in route else None
    if route == REFUND:
        await api.post(f"/api/order/{order_id}/pay", headers=owner)
        assert await final(api, order_id, owner) == "confirmed"
    account = {"email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}
    if route == "POST /api/auth/login":
        await api.post("/api/auth/register", json={**account, "name": "Ada"})
    bodies = {
        "POST /api/order/buy-flash": {"productId": product_id},
        "PATCH /api/admin/products/{product_id}": {"name": "renamed"},
        "POST /api/admin/products": {"name": "x", "price": "1", "stock": 1},
        "POST /api/admin/stock": {"productId": product_id, "stock": 5},
        "POST /api/admin/products/{product_id}/stock": {"change": 1},
        "POST /api/auth/login": account,
        REFUND: {"reason": "late"},
        "POST /api/admin/orders/{order_id}/paid": {"reference": "transfer 1", "amount": "999.99", "currency": "USD"},
        "POST /api/admin/orders/{order_id}/refunds/{number}/paid": {"reference": "transfer 1"},
    }
    queries = {"GET /api/admin/buyers": "?email=nobody@example.com"}
    state = "SELECT p.*, l.free, o.status, o.version, (SELECT count(*) FROM refunds), "
    state += "(SELECT count(*) FROM webhook_events) FROM products p JOIN product_live l USING (product_id) "
    state += "LEFT JOIN orders o USING (product_id) WHERE p.product_id = $1"
    before = await database.fetch(state, product_id)
    ids = {"product_id": product_id, "order_id": order_id, "code": "sold_out", "provider": "stripe", "number": 1}
    if "{user_id}" in route:
        account = {"name": "Eve", "email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}
        ids["user_id"] = (await api.post("/api/auth/register", json=account)).json()["user"]["id"]
    method, path = (route.format_map(ids) + queries.get(route, "")).split(" ")
    callers = list(zip(({}, other, owner, admin), MATRIX[route], strict=True))
    # Those who are refused come first, and have changed nothing.
    for headers, expected in sorted(callers, key=lambda caller: caller[1] < 400):
        body = bodies.get(route)
        if route == "POST /api/auth/register":
            body = {"name": "Ada", "email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}
        if route == "POST /api/auth/forgot":
            body = {"email": f"{uuid.uuid4().hex}@example.com"}
        if path in {"/api/auth/logout", "/api/auth/password", "/api/auth/reset"}:
            # These end the caller's tokens: each caller is new.
            headers, body = await new_caller(api, stack, path, anonymous=not headers)  # noqa: PLW2901
        assert await status_of(api, method, path, json=body, headers=headers) == expected, headers
        if expected >= 400:
            assert await database.fetch(state, product_id) == before


async def test_the_signature_decides_about_a_webhook_and_no_token_does(postgres_url, valkey, redis, db):
    settings = make_settings(postgres_url, valkey.url)
    async with open_services(settings, name="test", provider=Provider()) as services:
        (user_id,) = await add_buyers(services, 1)
        tokens = Tokens(settings.auth)
        issued = [tokens.issue(Principal(user_id=user_id, role=role)) for role in Role]
        transport = httpx.ASGITransport(build_app(services, LiveHub(services)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            path = f"/api/webhooks/{NAME}"
            for headers in ({}, *({"Authorization": f"Bearer {token}"} for token in (*issued, "forged"))):
                body = {"id": f"evt_{uuid.uuid4().hex}", "type": "payment_intent.succeeded", "reference": "pi_1"}
                for signature in ({}, {"Stripe-Signature": "forged"}, {"Stripe-Signature": "valid"}):
                    answer = await client.post(path, json=body, headers={**headers, **signature})
                    stored = await db.fetchval("SELECT count(*) FROM webhook_events WHERE event_id = $1", body["id"])
                    valid = "valid" in signature.values()
                    assert (answer.status_code, stored) == ((200, 1) if valid else (400, 0)), (headers, signature)
                other = {**headers, "Stripe-Signature": "valid"}
                assert (await client.post("/api/webhooks/other", json=body, headers=other)).status_code == 404


def part(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")


def forged(key, claims, **header):
    """Sign with our own key and algorithm whatever the header says."""
    signed = part({"typ": "JWT", **header}) + b"." + part(claims)
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return (signed + b"." + base64.urlsafe_b64encode(algorithm.sign(signed, key)).rstrip(b"=")).decode()


def hostile_tokens(key, claims):
    attackers = b"a key of the attacker's own choice"
    now = int(time.time())
    yield from (forged(key, claims, alg=alg) for alg in ("RS256", "ES256", "HS384", "none", "None", "hs256", "", None))
    yield forged(attackers, claims, alg="HS256", jwk={"kty": "oct", "k": base64.urlsafe_b64encode(attackers).decode()})
    yield forged(attackers, claims, alg="HS256", jku="http://127.0.0.1:9/keys", kid="../../dev/null")
    yield forged(b"", claims, alg="HS256", kid="/dev/null")
    yield forged(key, claims, alg="HS256", crit=["unknown"])
    yield forged(key, {**claims, "nbf": now + 600}, alg="HS256")
    yield forged(key, {**claims, "exp": "never"}, alg="HS256")
    yield forged(key, {**claims, "aud": []}, alg="HS256")
    yield forged(key, {**claims, "sub": {"$ne": None}}, alg="HS256")
    yield forged(key, {**claims, "role": ["admin"]}, alg="HS256")
    yield forged(key, [claims], alg="HS256")
    good = forged(key, claims, alg="HS256")
    yield good[:-1]
    yield good + ".x"
    yield good.rpartition(".")[0] + "."
    head, _, signature = good.split(".")
    yield f"{head}.{part({**claims, 'role': 'admin'}).decode()}.{signature}"


async def test_no_forged_token_opens_an_order(api, product, stack, buyer):
    order_id = await waiting_order(api, await product(paymentMode="by_buyer"), buyer)
    path = f"/api/order/{order_id}/status"
    claims = jwt.decode(buyer["Authorization"].removeprefix("Bearer "), options={"verify_signature": False})
    key = stack.secrets["jwt_secret"].encode()
    right = forged(key, claims, alg="HS256")
    assert (await api.get(path, headers={"Authorization": f"Bearer {right}"})).status_code == 200, "but for one thing"
    for token in hostile_tokens(key, claims):
        for request in ({"headers": {"Authorization": f"Bearer {token}"}}, {"params": {"token": token}}):
            target = path if "headers" in request else f"/sse/orders/{order_id}"
            answer = await api.get(target, **request)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), token


async def test_a_stream_token_opens_its_order_and_nothing_else(api, product, buyer):
    product_id = await product(paymentMode="by_buyer")
    order_id, another = [await waiting_order(api, product_id, buyer) for _ in range(2)]
    token = (await api.post(f"/api/order/{order_id}/stream-token", headers=buyer)).json()["token"]
    login = buyer["Authorization"].removeprefix("Bearer ")
    assert await status_of(api, "GET", f"/sse/orders/{order_id}", params={"token": token}) == 200
    assert await status_of(api, "GET", f"/sse/orders/{another}", params={"token": token}) == 401
    assert await status_of(api, "GET", f"/sse/orders/{order_id}", params={"token": login}) == 401
    # A token in the query counts alone: what a link carries is not helped by who clicks on it.
    assert await status_of(api, "GET", f"/sse/orders/{another}", params={"token": token}, headers=buyer) == 401
    as_login = {"Authorization": f"Bearer {token}"}
    assert await status_of(api, "GET", f"/sse/orders/{order_id}", headers=as_login) == 401
    assert await status_of(api, "GET", f"/api/order/{order_id}/status", headers=as_login) == 401
    assert await status_of(api, "POST", f"/api/order/{order_id}/cancel", headers=as_login) == 401
    assert await status_of(api, "POST", BUY, json={"productId": product_id}, headers=as_login) == 401


HOSTILE = [
    "' OR '1'='1", "'; DROP TABLE orders; --", '"; DELETE FROM users; --', "1); SELECT pg_sleep(10); --", "$1", "%s%n",
    "\\", "\x00", "a\x00b", "x\r\nX-Injected: 1", "x\nX-Injected: 1", "%0d%0aX-Injected: 1", "../../etc/passwd",
    "{{7*7}}", "${jndi:ldap://x}", "<script>", "\u202e\ufeff\U0010ffff", "1e400", "-0", "NaN", "null", "x" * 3000,
]  # fmt: skip


async def snapshot(database):
    """What no hostile text may change; accounts and products whose name it is do not count."""
    return [
        await database.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"),
        await database.fetchval("SELECT count(*) FROM users WHERE role = 'admin'"),
        await database.fetchval("SELECT count(*) FROM orders"),
        await database.fetch("SELECT product_id, free FROM product_live ORDER BY 1"),
        await database.fetch("SELECT * FROM products ORDER BY product_id"),
    ]


def harmless(answer, text):
    assert answer.status_code < 500, (text, answer.text)
    assert "x-injected" not in answer.headers, text
    assert not any(text in value for value in answer.headers.values() if len(text) > 4), text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"


async def test_hostile_text_in_a_path_or_query_is_only_text(api, admin, database):
    before = await snapshot(database)
    for text in HOSTILE:
        quoted = quote(text, safe="")
        for path in ("/api/products/{}", "/api/order/{}/status", "/sse/orders/{}", "/sse/stock/{}", "/{}",
                     "/api/admin/products/{}"):  # fmt: skip
            answer = await api.get(path.format(quoted), headers=admin)
            harmless(answer, text)
            assert answer.status_code in {400, 404}, (path, text)
        for name in ("productId", "status", "before", "limit"):
            answer = await api.get("/api/admin/orders", params={name: text}, headers=admin)
            harmless(answer, text)
            assert answer.status_code == 400 or text == "null", (name, text)
        harmless(await api.get(f"/sse/orders/{uuid.uuid4()}", params={"token": text}), text)
    assert await snapshot(database) == before


async def test_hostile_text_in_a_body_is_only_text(api, admin, buyer, product, database):
    product_id = await product(stock=0)
    before = await snapshot(database)
    made = {"name": "x", "price": "1", "stock": 0}
    for text in HOSTILE:
        for path, body, field in (
            ("/api/auth/login", {"password": "correct horse"}, "email"),
            ("/api/auth/login", {"email": "no@body.example"}, "password"),
            ("/api/auth/register", {"name": "x", "password": "correct horse"}, "email"),
            (BUY, {"productId": product_id}, "requestId"),
            ("/api/admin/products", made, "price"),
            ("/api/admin/products", made, "currency"),
            ("/api/admin/products", made, "paymentMode"),
        ):
            answer = await api.post(path, json={**body, field: text}, headers=buyer if path == BUY else admin)
            harmless(answer, text)
            assert answer.status_code in {400, 401, 409}, (path, field, text)
    assert await snapshot(database) == before


async def test_a_hostile_name_is_kept_as_it_came(api, admin, product):
    path = f"/api/admin/products/{await product(stock=0)}"
    for text in HOSTILE:
        answer = await api.patch(path, json={"name": text}, headers=admin)
        harmless(answer, text)
        if "\x00" in text or len(text) > 200:
            assert answer.status_code == 400
        else:
            assert (await api.get(path, headers=admin)).json()["name"] == text


async def raw(stack, request):
    """Send bytes as they are; returns the status line and the headers of the answer."""
    host, port = stack.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(60):
            return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    finally:
        writer.close()


HOSTILE_BYTES = [
    b"a\rX-Injected: 1", b"a\nX-Injected: 1", b"a\r\n X-Injected: 1", b"a\r\nX-Injected: 1", b"a\x00b", b"\x01\x7f",
    b"\xff\xfe", b"'; DROP TABLE orders; --", b"9" * 400, b"-1", b"x" * 5000, b"\xd9\xa1",
]  # fmt: skip


@pytest.mark.parametrize("name", ["Idempotency-Key", "Last-Event-ID", "X-Request-ID", "Authorization", "Content-Type",
                                  "Accept", "Cookie", "Host", "Content-Length", "Transfer-Encoding"])  # fmt: skip
async def test_hostile_bytes_in_a_header_are_refused_or_only_text(stack, product, buyer, database, name):
    product_id = await product(stock=0)
    before = await snapshot(database)
    body = b'{"productId":%d}' % product_id
    token = b"Authorization: " + buyer["Authorization"].encode() + b"\r\n"
    length = b"Content-Length: %d\r\n" % len(body)
    for value in HOSTILE_BYTES:
        field = name.encode() + b": " + value + b"\r\n"
        for line in (b"POST /api/order/buy-flash", b"GET /sse/stock/%d" % product_id, b"POST /api/auth/login"):
            rest = (b"" if name == "Authorization" else token) + (b"" if name == "Content-Length" else length)
            head = await raw(stack, line + b" HTTP/1.1\r\nConnection: close\r\n" + field + rest + b"\r\n" + body)
            assert re.match(r"http/1\.1 [24]", head), (value, head)
            assert "x-injected" not in head
            given = re.search(r"x-request-id: (.*)\r", head)
            assert given is None or re.fullmatch(r"[a-z0-9._:-]{1,64}", given[1]), head
    assert await snapshot(database) == before


@pytest.mark.parametrize(
    "line",
    [b"GET /api/products/1\x00 HTTP/1.1", b"GET /api/\r\nX-Injected: 1 HTTP/1.1", b"GET http://[ HTTP/1.1", b"GET * HTTP/1.1",
     b"GET //[ HTTP/1.1", b"GET /%ff%fe HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /schema/../../etc/passwd HTTP/1.1",
     b"CONNECT 127.0.0.1:1 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"TRACE / HTTP/1.1", b"PRI * HTTP/2.0", b"GET / HTTP/0.9",
     b"GET /api/products?\xff=\xfe HTTP/1.1", b"GET /api/admin/orders?limit=%ff HTTP/1.1"],
)  # fmt: skip
async def test_a_hostile_request_line_is_refused(stack, line, admin):
    token = b"Authorization: " + admin["Authorization"].encode() + b"\r\n"
    head = await raw(stack, line + b"\r\nHost: x\r\nConnection: close\r\n" + token + b"\r\n")
    assert re.match(r"http/1\.1 4", head) or b"?\xff" in line, head
    assert "x-injected" not in head
    assert "problem+json" in head or head.startswith("http/1.1 200"), head


async def test_a_head_that_is_too_long_is_refused(stack):
    head = await raw(stack, b"GET /api/products HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
    assert head.startswith("http/1.1 431 "), head
    assert "connection: close" in head
    assert "application/problem+json" in head


async def test_headers_that_name_an_address_do_not_widen_the_rate_limit(postgres_url, valkey, redis):
    settings = make_settings(postgres_url, valkey.url, gate={"rate_limit": 3, "rate_window_s": 3600})
    async with open_services(settings, name="test") as services:
        product = await add_product(services)
        (user_id,) = await add_buyers(services, 1)
        token = Tokens(settings.auth).issue(Principal(user_id=user_id, role=Role.BUYER))
        transport = httpx.ASGITransport(build_app(services, LiveHub(services)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            statuses = []
            for number in range(12):
                address = f"10.0.0.{number}"
                spoofed = {"X-Forwarded-For": address, "Forwarded": f"for={address}", "X-Real-IP": address,
                           "X-Request-ID": address, "User-Agent": address, "Idempotency-Key": address}  # fmt: skip
                headers = {"Authorization": f"Bearer {token}", **spoofed}
                answer = await client.post(BUY, json={"productId": product.product_id}, headers=headers)
                statuses.append(answer.status_code)
        assert statuses == [202] * 3 + [429] * 9
