"""Every answer that the OpenAPI document names is given: by routes that work, are limited, broken, or have no database."""

import asyncio
import dataclasses
import json
import socket
import uuid
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import httpx

from flashsale.adapters.postgres.intents import PostgresIntents
from flashsale.bootstrap.api import open_services
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.users import Principal, Role
from flashsale.http.app import build_app
from flashsale.http.auth import Tokens
from flashsale.http.server import Server
from flashsale.http.streams.hub import LiveHub
from flashsale.usecases.sessions import Sessions
from flashsale.usecases.webhooks import ReceiveWebhook
from tests.conftest import make_settings
from tests.support.charging import Gateway, charging
from tests.support.manual import gateway, recording
from tests.support.provider import Provider
from tests.support.reference import Reference, required

TIMEOUT_S = 3.0
SIGNED = {
    "content": json.dumps({"id": "evt_1", "type": "payment_intent.succeeded", "reference": "pi_1"}),
    "headers": {"Stripe-Signature": "valid"},
}
"""A webhook of the provider that the tests have."""

BODIES: dict[str, dict[str, object]] = {
    "register": {"name": "Ada", "email": "EMAIL", "password": "unlikely 4711 horse"},
    "logIn": {"email": "EMAIL", "password": "unlikely 4711 horse"},
    "changePassword": {"oldPassword": "unlikely 4711 horse", "newPassword": "unlikely 4712 horse"},
    "requestPasswordReset": {"email": "EMAIL"},
    "resetPassword": {"token": "", "password": "unlikely 4713 horse"},
    "buy": {"productId": 1},
    "createProduct": {"name": "Phone", "price": "1", "stock": 5},
    "changeProduct": {"name": "Phone"},
    "changeStock": {"change": 1},
    "setStock": {"productId": 1, "stock": 50},
    "refundOrder": {"amount": "0.10", "reason": "Arrived broken"},
    "recordPayment": {"reference": "t-1", "amount": "1.00", "currency": "USD"},
    "recordRefund": {"reference": "b-1"},
}


@asynccontextmanager
async def serving(settings, change=None):
    """Serve from real servers; returns the client and what it serves from."""
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(settings, name="test"))
        webhooks = ReceiveWebhook(PostgresIntents(services.database), Provider())
        services = dataclasses.replace(services, webhooks=webhooks, record_money=recording(services))
        hub = LiveHub(services)
        edge = build_app(change(services) if change else services, hub)
        server = Server(edge, settings.http)
        await stack.enter_async_context(edge.lifespan())
        sock = socket.create_server(("127.0.0.1", 0))
        await server.listen(sock)
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=30)
        try:
            yield await stack.enter_async_context(client), services
        finally:
            hub.close()
            await server.stop(leave_s=0, finish_s=1)


class Broken:
    """A defect: whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __call__(self, *_arguments, **_named):
        raise RuntimeError


def break_all(services):
    broken: dict[str, object] = dict.fromkeys(
        (
            "buy",
            "catalog",
            "orders",
            "accounts",
            "administer",
            "read_products",
            "refunds",
            "record_money",
            "readiness",
            "users",
            "webhooks",
            "trail",
        ),
        Broken(),
    )
    # The framework's guard asks for its type.
    broken["sessions"] = object.__new__(Sessions)
    return dataclasses.replace(services, **broken)


class Caller:
    """Asks for each operation, and lets the document judge each answer."""

    def __init__(self, client, reference, ids):
        self.client, self.reference, self.ids = client, reference, ids
        self.operations = {
            operation["operationId"]: (method.upper(), path, operation)
            for path, item in reference.document["paths"].items()
            for method, operation in item.items()
        }

    async def __call__(self, name, headers=None, *, expect=None, query="", last=None, **more):
        method, path, operation = self.operations[name]
        url = path.format(**{**self.ids, **(last or {})}) + (query or required(operation))
        if "requestBody" in operation and not more:
            sent = json.dumps(BODIES[name]).replace("EMAIL", f"{uuid.uuid4().hex}@example.com")
            more = {"content": sent, "headers": {"Content-Type": "application/json"}}
        more["headers"] = {**more.get("headers", {}), **(headers or {})}
        async with self.client.stream(method, url, **more) as answer:
            stream = answer.headers.get("content-type", "").startswith("text/event-stream")
            body = b"" if stream else await answer.aread()
        self.reference.check(method, answer.url.path, answer.status_code, answer.headers, body)
        if expect is not None:
            assert answer.status_code == expect, (name, answer.status_code, body)
        return answer

    async def raw(self, name, head, *, wait=False):
        """Send a head that the connection refuses, with this operation's method and path."""
        method, path, _ = self.operations[name]
        reader, writer = await asyncio.open_connection(self.client.base_url.host, self.client.base_url.port)
        writer.write(head.replace(b"LINE", f"{method} {path.format(**self.ids)}".encode()))
        answer = await asyncio.wait_for(reader.read(), 3 * TIMEOUT_S if wait else 30)
        writer.close()
        lines, _, body = answer.partition(b"\r\n\r\n")
        fields = (line.split(": ", 1) for line in lines.decode().split("\r\n")[1:])
        headers = {key.lower(): value for key, value in fields}
        self.reference.check(method, path.format(**self.ids), int(lines.split()[1]), headers, body)


RAW = (
    b"LINE HTTP/1.1\r\n\r\n",
    b"LINE HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n",
    b"LINE?" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    b"LINE HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",
)


async def refusals(call, buyer, admin):
    """What each operation refuses before it does anything."""
    for name, (_, path, operation) in call.operations.items():
        answers = operation["responses"]
        await call(name, query="?nonsense=1", expect=400)
        if "401" in answers and operation["security"]:
            await call(name, expect=401)
        if "403" in answers:
            await call(name, buyer, expect=403)
        if "415" in answers:
            await call(
                name, content="{}", headers={"Content-Type": "text/plain", **whose(path, buyer, admin)}, expect=415
            )
        if "{" in path:
            await call(name, last=dict.fromkeys(call.ids, "A-"), expect=404)
        for head in RAW:
            await call.raw(name, head)
    await asyncio.gather(*(call.raw(name, b"LINE HTTP/1.1\r\nhos", wait=True) for name in call.operations))


def whose(path, buyer, admin):
    return admin if path.startswith("/api/admin") else buyer


async def accounts(call, settings, db):
    """Make a buyer and an administrator; returns their headers."""
    account = {"email": "ada@example.com", "password": "unlikely 4711 horse"}
    await call("register", json={**account, "name": "Ada"}, expect=201)
    await call("register", json={**account, "name": "Ada"}, expect=409)
    await call("logIn", json={**account, "password": "another 4711 horse"}, expect=401)
    for name in ("buyer_id", "user_id"):
        call.ids[name] = (
            await call("register", json={**account, "email": f"{name}@example.com", "name": "Bob"})
        ).json()["user"]["id"]
    buyer = await log_in(call, {**account, "email": "buyer_id@example.com"})
    admin = {**account, "email": "grace@example.com"}
    user_id = uuid.UUID((await call("register", json={**admin, "name": "Grace"})).json()["user"]["id"])
    await db.execute("UPDATE users SET role = 'admin' WHERE user_id = $1", user_id)
    return buyer, await log_in(call, admin)


async def log_in(call, account):
    return {"Authorization": f"Bearer {(await call('logIn', json=account, expect=200)).json()['token']}"}


async def leave(call, settings, db):
    """Change the password, sign out, and set a new password; gives a reset token that holds."""
    account = {"email": "alan@example.com", "password": "unlikely 4711 horse"}
    user_id = uuid.UUID((await call("register", json={**account, "name": "Alan"})).json()["user"]["id"])
    await call("requestPasswordReset", expect=202)
    await call("changePassword", await log_in(call, account), expect=200)
    await call("logOut", await log_in(call, {**account, "password": "unlikely 4712 horse"}), expect=204)
    for token, expect in ((await token_of(user_id, settings, db), 204), ("x", 401)):
        await call("resetPassword", json={**BODIES["resetPassword"], "token": token}, expect=expect)
    return await token_of(user_id, settings, db)


async def token_of(user_id, settings, db):
    generation = await db.fetchval("SELECT generation FROM users WHERE user_id = $1", user_id)
    return Tokens(settings.auth).issue_reset(Principal(user_id=user_id, role=Role.BUYER, generation=generation))


async def unchanged(call, name, buyer, admin):
    headers = whose(call.operations[name][1], buyer, admin)
    tag = (await call(name, headers, expect=200)).headers["etag"]
    await call(name, {**headers, "If-None-Match": tag}, expect=304)


async def sale(call, services, buyer, admin):
    """Sell, look, pay and cancel."""
    new = {"name": "Phone", "price": "1", "stock": 5, "paymentMode": "by_buyer", "refundableByBuyer": True}
    product_id = (await call("createProduct", admin, json=new, expect=201)).json()["id"]
    none = (await call("createProduct", admin, json={**new, "stock": 0}, expect=201)).json()["id"]
    BODIES["buy"]["productId"] = BODIES["setStock"]["productId"] = call.ids["product_id"] = product_id
    # Later it tells how long orders have waited, which changes with each look.
    await unchanged(call, "getStatus", buyer, admin)
    key = {"Idempotency-Key": "k", **buyer}
    orders = [(await call("buy", one, expect=202)).json()["orderId"] for one in (key, buyer, buyer)]
    await call("buy", buyer, json={"productId": none}, expect=409)
    await call("buy", buyer, json={"productId": 999_999}, expect=404)
    await call("buy", key, json={"productId": product_id, "quantity": 2}, expect=422)
    await services.order_rows.process([uuid.UUID(one) for one in orders], payment_due_s=30)
    call.ids["order_id"] = orders[0]
    for name, (_, _, operation) in call.operations.items():
        if "304" in operation["responses"] and name != "getStatus":
            await unchanged(call, name, buyer, admin)
    for name in ("watchOrder", "watchStock", "isAlive", "isReady", "getMetrics"):
        await call(name, buyer, expect=200)
    await call("createStreamToken", buyer, expect=201)
    await call("receiveWebhook", **SIGNED, expect=200)
    await call("receiveWebhook", **SIGNED, expect=200)
    await call("receiveWebhook", content=SIGNED["content"], expect=400)
    await call("payOrder", buyer, expect=202)
    await call("cancelOrder", buyer, expect=409)
    await call("cancelOrderForBuyer", admin, expect=409)
    await call("eraseBuyer", admin, last={"user_id": call.ids["buyer_id"]}, expect=409)
    await call("eraseBuyer", admin, expect=200)
    await call("exportOrders", admin, expect=200)
    await call("refundOrder", admin, expect=409)
    await charging(services, Gateway(ChargeOutcome.CAPTURED))(uuid.UUID(orders[0]))
    await call("refundOrder", admin, expect=202)
    await call("listRefunds", admin, expect=200)
    await manual(call, services, orders[2], buyer, admin)
    call.ids["order_id"] = orders[1]
    version = (await call("cancelOrder", buyer, expect=200)).json()["version"]
    await call("cancelOrderForBuyer", admin, expect=200)
    for name in ("payOrder", "requestRefund"):
        await call(name, buyer, expect=409)
    await call("watchOrder", {**buyer, "Last-Event-ID": str(version)}, expect=204)
    for name in ("changeProduct", "pauseSale", "resumeSale", "listOrders", "listTrail"):
        await call(name, admin, expect=200)
        if not name.startswith("list"):
            await call(name, {**admin, "If-Match": '"0-0000000000000000"'}, expect=412)
    await call("changeProduct", admin, json={"price": "2"}, expect=409)
    await call("changeStock", admin, expect=200)
    await call("changeStock", admin, json={"change": -50}, expect=409)
    await archive(call, new, admin)
    await call("setStock", admin, json={"productId": product_id, "stock": 0}, expect=409)
    await call("setStock", admin, expect=200)
    await call("setStock", admin, json={"productId": 999_999, "stock": 1}, expect=404)
    # A key that belongs to another request.
    await call("setStock", {**admin, "Idempotency-Key": "k"}, expect=200)
    for name, (_, path, operation) in call.operations.items():
        if "422" in operation["responses"] and path.startswith("/api/admin"):
            different = {"json": {"productId": product_id, "stock": 51}} if name == "setStock" else {}
            await call(name, {**admin, "Idempotency-Key": "k"}, expect=422, **different)


async def archive(call, new, admin):
    """Close a sale; archive a product whose sale has not started, and ask for changes of it."""
    await call("archiveProduct", admin, expect=409)
    open_now, ahead = [
        {"last": {"product_id": (await call("createProduct", admin, json=one, expect=201)).json()["id"]}}
        for one in (new, {**new, "startsAt": "2099-01-01T00:00:00Z"})
    ]
    await call("closeSale", admin, **open_now, expect=200)
    await call("closeSale", admin, **ahead, expect=409)
    await call("archiveProduct", admin, **ahead, expect=200)
    for name in ("changeProduct", "pauseSale", "resumeSale"):
        await call(name, admin, **ahead, expect=409)
    await call("listAdminProducts", admin, query="?archived=true", expect=200)


async def manual(call, services, order_id, buyer, admin):
    """Record the payment of an order and its refund, as the provider `manual` needs it."""
    call.ids["order_id"] = order_id
    await call("recordPayment", admin, json={**BODIES["recordPayment"], "amount": "2.00"}, expect=409)
    await call("recordPayment", admin, expect=200)
    await charging(services, gateway(services))(uuid.UUID(order_id))
    await call("requestRefund", buyer, expect=202)
    await call("withdrawRefund", admin, expect=200)
    await call("requestRefund", buyer, expect=202)
    call.ids["number"] = 2
    await call("recordRefund", admin, expect=200)
    await call("withdrawRefund", admin, expect=409)
    await call("recordRefund", admin, json={"reference": "b-2"}, expect=409)


def of_another_provider(services):
    return dataclasses.replace(services, record_money=recording(services, provider="stripe"))


async def ask_all(call, status, buyer, admin, *, times=1):
    """Ask for each operation that names a status, this often."""
    wrong = {
        "logIn": {"email": "ada@example.com", "password": "another 4711 horse"},
        "requestPasswordReset": {"email": "ada@example.com"},
        "changePassword": {"oldPassword": "another 4711 horse", "newPassword": "unlikely 4712 horse"},
    }
    for name, (_, path, operation) in call.operations.items():
        for _ in range(times if status in operation["responses"] else 0):
            more = {"json": wrong[name]} if name in wrong else SIGNED if name == "receiveWebhook" else {}
            await call(name, **{"headers": whose(path, buyer, admin), **more})


@asynccontextmanager
async def no_database(server, url, spared):
    """End every connection to a database but one, and let none begin."""
    outside, database = await asyncpg.connect(server.url), url.rpartition("/")[2]
    others = "datname = $1 AND pid <> $2"
    await outside.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    await outside.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}", database, spared.get_server_pid()
    )
    try:
        yield
    finally:
        await outside.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        await outside.close()


async def test_every_answer_that_the_document_names_is_given(postgres, postgres_url, valkey, redis, db):
    settings = make_settings(
        postgres_url, valkey.url, http={"request_timeout_s": TIMEOUT_S}, limits={"administration": 1_000}
    )
    async with serving(settings) as (client, services):
        reference = Reference((await client.get("/schema/openapi.json")).json())
        call = Caller(
            client,
            reference,
            {"code": "sold_out", "provider": "stripe", "product_id": 1, "order_id": str(uuid.uuid4()), "number": 1},
        )
        buyer, admin = await accounts(call, settings, db)
        BODIES["resetPassword"]["token"] = await leave(call, settings, db)
        await sale(call, services, buyer, admin)
        await refusals(call, buyer, admin)
    ones = {"orders": 1, "streams": 1, "administration": 1}
    strict = {"limits": ones, "gate": {"rate_limit": 1}, "logins": {"free_tries": 1}}
    async with serving(make_settings(postgres_url, valkey.url, **strict)) as (call.client, _):
        await ask_all(call, "429", buyer, admin, times=4)
    # Failed logins are remembered, and would be answered 429 for seconds.
    await redis.flushall()
    async with serving(settings, of_another_provider) as (call.client, _):
        for name in ("recordPayment", "recordRefund"):
            await call(name, admin, expect=409)
    async with serving(settings, break_all) as (call.client, _):
        await ask_all(call, "500", buyer, admin)
    other_cell = make_settings(
        postgres_url, valkey.url, cell={"number": 1, "count": 2}, limits={"administration": 1_000}
    )
    call.ids["product_id"] += 1_000
    BODIES["buy"]["productId"] = BODIES["setStock"]["productId"] = call.ids["product_id"]
    order_id, call.ids["order_id"] = call.ids["order_id"], str(uuid.uuid4())
    async with serving(other_cell) as (call.client, _):
        await ask_all(call, "421", buyer, admin)
        await call("changePassword", buyer, expect=421)
    call.ids["order_id"] = order_id
    away = make_settings(postgres_url, valkey.url, postgres={"url": postgres_url, "acquire_timeout_s": 0.5})
    async with serving(away) as (call.client, _), no_database(postgres, postgres_url, db):
        await ask_all(call, "503", buyer, admin)
    seen = {(name, status) for name, status, _ in reference.seen}
    named = {(name, status) for name, status, _ in reference.named()}
    assert len(named) > 250
    assert named - seen == set()
