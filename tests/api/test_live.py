import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.support.api import final

BUY = "/api/order/buy-flash"


class Stream:
    """An SSE client: the events so far, and a way to wait for one."""

    def __init__(self, lines):
        self.lines = lines
        self.events = []
        self.fields = {}

    async def until(self, wanted):
        async with asyncio.timeout(60):
            while not (self.events and wanted(self.events[-1])):
                line = await anext(self.lines)
                name, _, value = line.partition(": ")
                if name == "id":
                    self.fields["id"] = int(value)
                elif name == "retry":
                    self.fields["retry"] = int(value)
                elif name == "data":
                    self.events.append({**json.loads(value), "id": self.fields["id"]})
        return self.events[-1]


@asynccontextmanager
async def stream(api, path, **kwargs):
    async with api.stream("GET", path, timeout=30, **kwargs) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        yield Stream(response.aiter_lines())


async def test_a_stock_stream_begins_with_the_stock_and_follows_it(api, product, buyer):
    product_id = await product()
    async with stream(api, f"/sse/stock/{product_id}") as seen:
        first = await seen.until(lambda event: True)
        assert (first["stock"], first["productId"], first["id"]) == (10, product_id, first["version"])
        assert 100 <= seen.fields["retry"] <= 200, "spread, so that clients do not all come back at once"
        for _ in range(4):
            await api.post(BUY, json={"productId": product_id}, headers=buyer)
        last = await seen.until(lambda event: event["stock"] == 6)
        versions = [event["version"] for event in seen.events]
        assert versions == sorted(set(versions))
    async with stream(api, f"/sse/stock/{product_id}", headers={"Last-Event-ID": str(last["id"])}) as seen:
        await api.post(BUY, json={"productId": product_id}, headers=buyer)
        assert (await seen.until(lambda event: True))["stock"] == 5, "nothing that the client has is sent again"


async def test_many_changes_are_conflated_and_the_last_one_is_seen(api, product, buyers):
    product_id = await product(stock=60)
    buyer = next(buyers)
    async with stream(api, f"/sse/stock/{product_id}") as seen:
        await seen.until(lambda event: True)
        await asyncio.gather(*(api.post(BUY, json={"productId": product_id}, headers=buyer) for _ in range(60)))
        await seen.until(lambda event: event["stock"] == 0)
        # Without it 61; a busy machine spreads the buys over more intervals.
        assert len(seen.events) < 55


async def test_every_process_shows_the_same_in_the_end(api, product, buyer):
    product_id = await product()
    clients = [stream(api, f"/sse/stock/{product_id}") for _ in range(8)]
    opened = [await client.__aenter__() for client in clients]
    await api.post(BUY, json={"productId": product_id, "quantity": 3}, headers=buyer)
    last = await asyncio.gather(*(seen.until(lambda event: event["stock"] == 7) for seen in opened))
    assert len({event["version"] for event in last}) == 1
    for client in clients:
        await client.__aexit__(None, None, None)


async def test_an_order_stream_follows_the_order_and_ends(api, product, buyer):
    product_id = await product()
    bought = (await api.post(BUY, json={"productId": product_id}, headers=buyer)).json()
    path = f"/sse/orders/{bought['orderId']}"
    async with stream(api, path, headers=buyer) as seen:
        last = await seen.until(lambda event: event["status"] == "confirmed")
        versions = [event["version"] for event in seen.events]
        assert versions == sorted(set(versions))
        with pytest.raises(StopAsyncIteration):
            while True:
                await asyncio.wait_for(anext(seen.lines), 60)
    again = await api.get(path, headers={**buyer, "Last-Event-ID": str(last["id"])})
    assert again.status_code == 204, "tells an EventSource not to come back"


async def test_a_stream_token_opens_the_stream_of_its_order_only(api, product, buyer):
    product_id = await product()
    orders = [(await api.post(BUY, json={"productId": product_id}, headers=buyer)).json()["orderId"] for _ in range(2)]
    made = await api.post(f"/api/order/{orders[0]}/stream-token", headers=buyer)
    assert made.status_code == 201
    token = made.json()["token"]
    async with stream(api, f"/sse/orders/{orders[0]}?token={token}") as seen:
        await seen.until(lambda event: event["status"] == "confirmed")
    assert (await api.get(f"/sse/orders/{orders[1]}?token={token}")).status_code == 401
    headers = {"Authorization": f"Bearer {token}"}
    assert (await api.get(f"/api/order/{orders[0]}/status", headers=headers)).status_code == 401
    await final(api, orders[1], buyer)


async def test_polling_and_streaming_together_never_go_back(api, product, buyer):
    product_id = await product()
    order_id = (await api.post(BUY, json={"productId": product_id}, headers=buyer)).json()["orderId"]
    polled, status = [], None
    async with stream(api, f"/sse/orders/{order_id}", headers=buyer) as seen:
        while status != "confirmed":
            answer = (await api.get(f"/api/order/{order_id}/status", headers=buyer)).json()
            polled.append(answer["version"])
            status = answer["status"]
        assert (await seen.until(lambda event: event["status"] == "confirmed"))["version"] == polled[-1]
    assert polled == sorted(polled)
    assert [event["version"] for event in seen.events] == sorted(event["version"] for event in seen.events)


async def test_streams_of_unknown_things_are_problems(api, buyer):
    for path in ("/sse/stock/2147483647", "/sse/stock/0", "/sse/stock/abc", "/sse/stock/99999999999999999999"):
        assert (await api.get(path)).status_code == 404, path
    assert (await api.get("/sse/orders/abc", headers=buyer)).status_code == 404


async def test_streams_survive_the_loss_of_every_listening_connection(api, product, buyer, database):
    product_id = await product()
    async with stream(api, f"/sse/stock/{product_id}") as seen:
        await seen.until(lambda event: event["stock"] == 10)
        killed = await database.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flashsale-api-feed'"
        )
        assert len(killed) == 2, "one in each API process"
        await api.post(BUY, json={"productId": product_id}, headers=buyer)
        await seen.until(lambda event: event["stock"] == 9)


async def test_a_stream_holds_no_database_connection(stack, api, product, database):
    product_id = await product()
    before = await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE state = 'active'")
    async with httpx.AsyncClient(base_url=stack.base_url, limits=httpx.Limits(max_connections=None)) as client:
        clients = [stream(client, f"/sse/stock/{product_id}") for _ in range(100)]
        for one in clients:
            await (await one.__aenter__()).until(lambda event: True)
        open_connections = await database.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'flashsale-api'"
        )
        assert open_connections <= 2 * 7
        assert await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE state = 'active'") <= before + 2
        for one in clients:
            await one.__aexit__(None, None, None)
