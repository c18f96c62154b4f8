"""What a browser's EventSource depends on: it comes back after a stream that ends, and never after another answer."""

import asyncio
import time
import uuid

import httpx
import jwt
import pytest

from tests.support.api import BUY, final, waiting_order


class EventSource:
    """As much of the browser's as matters here: it reads events, comes back after a stream, and keeps the last id."""

    def __init__(self, api, path, **request):
        self.api, self.path, self.request = api, path, request
        self.last_id, self.closed, self.events = None, False, []

    async def connect(self, events):
        """Read up to so many events over one connection; returns them as (type, data)."""
        sent = {} if self.last_id is None else {"Last-Event-ID": self.last_id}
        headers = {**self.request.get("headers", {}), **sent, "Accept": "text/event-stream"}
        seen, kind, data = [], "message", ""
        async with self.api.stream("GET", self.path, timeout=10, **{**self.request, "headers": headers}) as answer:
            self.status = answer.status_code
            if self.status != 200 or answer.headers["content-type"] != "text/event-stream":
                self.closed = True
                return seen
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    data = value
                elif name == "id":
                    self.last_id = value
                elif not line and data:
                    seen.append((kind, data))
                    kind, data = "message", ""
                    if len(seen) == events:
                        break
        return seen


def reissued(token, key, **claims):
    """Sign a genuine token's claims again, with others."""
    old = jwt.decode(token, options={"verify_signature": False})
    headers = {name: value for name, value in jwt.get_unverified_header(token).items() if name not in {"alg", "typ"}}
    return jwt.encode({**old, **claims}, key, algorithm="HS256", headers=headers)


async def stream_token(api, order_id, buyer):
    answer = await api.post(f"/api/order/{order_id}/stream-token", headers=buyer)
    return answer.json()["token"]


async def test_a_token_that_ended_asks_the_page_for_another_and_ends_no_event_source(api, product, buyer, stack):
    order_id = await waiting_order(api, await product(paymentMode="by_buyer"), buyer)
    token = await stream_token(api, order_id, buyer)
    source = EventSource(api, f"/sse/orders/{order_id}", params={"token": token})
    ((kind, data),) = await source.connect(1)
    assert (kind, "awaiting_payment" in data) == ("message", True)
    for age_s in (0, 1, 300, 86_400, 10**8):
        old = reissued(token, stack.secrets["jwt_secret"], exp=int(time.time()) - age_s)
        source.request = {"params": {"token": old}}
        ((kind, data),) = await source.connect(2)
        assert kind == "token-expired"
        assert not source.closed
        assert "status" not in data
        assert str(order_id) in data
    renewed = await api.post(httpx.Response(200, content=data).json()["renewAt"], headers=buyer)
    source = EventSource(api, f"/sse/orders/{order_id}", params={"token": renewed.json()["token"]})
    assert "awaiting_payment" in (await source.connect(1))[0][1]


async def test_a_token_that_ended_opens_nothing_that_it_did_not_open_before(api, product, buyers, stack):
    owner, other = next(buyers), next(buyers)
    product_id = await product(paymentMode="by_buyer")
    order_id, another = [await waiting_order(api, product_id, owner) for _ in range(2)]
    token, key = await stream_token(api, order_id, owner), stack.secrets["jwt_secret"]
    stranger = jwt.decode(other["Authorization"].removeprefix("Bearer "), options={"verify_signature": False})["sub"]
    past = int(time.time()) - 60
    login = owner["Authorization"].removeprefix("Bearer ")
    refused = {
        "another order": (another, reissued(token, key, exp=past), 401),
        "another key": (order_id, reissued(token, "x" * 64, exp=past), 401),
        "a login token": (order_id, reissued(login, key, exp=past), 401),
        "a login token that holds": (order_id, login, 401),
        "not the owner": (order_id, reissued(token, key, exp=past, sub=stranger), 404),
        "nobody": (order_id, reissued(token, key, exp=past, sub=str(uuid.uuid4())), 404),
        "no time": (order_id, reissued(token, key, exp="never"), 401),
        "another issuer": (order_id, reissued(token, key, exp=past, iss="x"), 401),
    }
    for what, (of, sent, status) in refused.items():
        source = EventSource(api, f"/sse/orders/{of}", params={"token": sent})
        assert (await source.connect(1), source.status) == ([], status), what
    as_login = {"Authorization": f"Bearer {reissued(token, key, exp=past)}"}
    assert (await api.get(f"/api/order/{order_id}/status", headers=as_login)).status_code == 401


AHEAD = ["+1", "+1000", "9223372036854775807", "9" * 19, "9" * 25, "9" * 400]
GARBAGE = ["", "abc", "-1", "1.5", "0x10", "1e3", "null", "1,2", "0"]


@pytest.mark.parametrize("sent", AHEAD + GARBAGE)
async def test_an_id_that_no_event_had_silences_no_stream(api, product, buyer, sent):
    product_id = await product(paymentMode="by_buyer")
    order_id = await waiting_order(api, product_id, buyer)
    for path, headers in ((f"/sse/stock/{product_id}", {}), (f"/sse/orders/{order_id}", buyer)):
        source = EventSource(api, path, headers=headers)
        ((_, now),) = await source.connect(1)
        version = int(source.last_id)
        source.last_id = str(version + int(sent)) if sent.startswith("+") else sent
        assert await source.connect(1) == [("message", now)], path
        assert int(source.last_id) == version, "from here on the client is right again"


@pytest.mark.parametrize("sent", AHEAD)
async def test_an_id_that_no_event_had_hides_no_final_state(api, product, buyer, sent):
    order_id = (await api.post(BUY, json={"productId": await product()}, headers=buyer)).json()["orderId"]
    assert await final(api, order_id, buyer) == "confirmed"
    source = EventSource(api, f"/sse/orders/{order_id}", headers=buyer)
    await source.connect(1)
    version = source.last_id
    source.last_id = str(int(version) + int(sent)) if sent.startswith("+") else sent
    ((_, data),) = await source.connect(2)
    assert "confirmed" in data
    assert (source.last_id, source.closed) == (version, False)
    assert await source.connect(1) == []
    assert source.status == 204, "nothing more comes"


async def test_a_pause_reaches_the_pages_of_every_process(api, product, admin):
    product_id = await product()
    begun = [asyncio.Event() for _ in range(8)]

    async def watch(saw_it_open):
        async with api.stream("GET", f"/sse/stock/{product_id}", params={"details": "true"}, timeout=30) as answer:
            async for line in answer.aiter_lines():
                if '"paused":false' in line:
                    saw_it_open.set()
                if '"paused":true' in line:
                    return
            raise AssertionError("the stream ended")

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for one in begun:
            group.create_task(watch(one))
        for one in begun:
            await one.wait()
        assert (await api.post(f"/api/admin/products/{product_id}/pause", headers=admin)).status_code == 200
