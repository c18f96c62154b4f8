"""The baselines sell as their architectures do: all but the naive one exactly what there is."""

import asyncio
import json
import socket
import time

import httpx
import jwt
import pytest
from baselines.__main__ import SHOPS
from baselines.lua import Lua
from baselines.shop import SCHEMA, Refused, Served, Servers, Surface

from flashsale.http.server import Server
from flashsale.settings.edge import HttpSettings
from tests.conftest import execute
from tests.support.gateway import SECRET, running

UNITS, BUYERS = 10, 30
TOKEN_SECRET = "only-for-tests-" * 4


@pytest.fixture
async def servers(empty_url, valkey, redis):
    """An empty shop's servers, with a payment provider that always has the money."""
    await execute(empty_url, SCHEMA)
    async with running() as gateway:
        yield Servers(
            postgres=empty_url,
            redis=valkey.url,
            gateway=gateway.url,
            gateway_secret=SECRET,
            jwt_secret=TOKEN_SECRET,
        )


async def opened(servers, approach):
    shop = SHOPS[approach](servers)
    await shop.open()
    await shop.create(1, name="Phone", price_minor=99_999, currency="USD", stock=UNITS)
    return shop, [asyncio.create_task(shop.work(kind)) for kind in shop.workers]


async def closed(shop, working):
    # A cancellation that comes with the answer of a server may be lost in a client library: cancel until each has ended.
    while working:
        for task in working:
            task.cancel()
        _, working = await asyncio.wait(working, timeout=1)
    await shop.close()


async def until_final(shop, orders):
    async with asyncio.timeout(60):
        while await shop.pool.fetchval("SELECT count(*) FROM orders WHERE status = 'confirmed'") < orders:
            await asyncio.sleep(0.02)


async def buy(shop, user_id):
    """Buy until there is a definite answer; returns the order, or nothing."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await shop.buy(user_id, 1, "key")
            except Refused as refused:
                if refused.code == "sold_out":
                    return None
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("approach", SHOPS)
async def test_an_approach_sells_what_it_has(servers, approach):
    shop, working = await opened(servers, approach)
    try:
        bought = await asyncio.gather(*(buy(shop, f"buyer {number}") for number in range(BUYERS)))
        orders = {order for order in bought if order is not None}
        async with asyncio.timeout(120):
            await until_final(shop, len(orders))
        if approach == "naive":
            assert len(orders) > UNITS
            return
        assert len(orders) == UNITS
        assert await shop.stock(1) == 0
        first = next(number for number, order in enumerate(bought) if order is not None)
        assert await buy(shop, f"buyer {first}") == bought[first], "a key gives its first order"
    finally:
        await closed(shop, working)


@pytest.mark.parametrize("approach", SHOPS)
async def test_a_buyer_is_answered_over_http_as_the_product_answers(servers, approach):
    shop, working = await opened(servers, approach)
    token = jwt.encode({"sub": "a buyer", "exp": time.time() + 60}, TOKEN_SECRET)
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "a"}
    transport = httpx.ASGITransport(Surface(shop).app())
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            assert (await client.post("/api/order/buy-flash", json={"productId": 1})).status_code == 401
            assert (
                await client.post("/api/order/buy-flash", json={"productId": 2}, headers=headers)
            ).status_code == 404
            bought = await client.post("/api/order/buy-flash", json={"productId": 1}, headers=headers)
            assert bought.status_code == 202
            assert bought.json()["product"] == {
                "id": 1,
                "name": "Phone",
                "price": "999.99",
                "currency": "USD",
                "quantity": 1,
            }
            await until_final(shop, 1)
            order = await client.get(f"/api/order/{bought.json()['orderId']}/status", headers=headers)
            assert order.json()["status"] == "confirmed"
            assert (await client.get("/api/products/1")).json()["stock"] == UNITS - 1
    finally:
        await closed(shop, working)


async def test_a_buyer_waits_for_the_locked_row_no_longer_than_told_however_often_it_is_written(servers, monkeypatch):
    monkeypatch.setattr("baselines.synchronous.WAIT_S", 0.5)
    shop, _ = await opened(servers, "row_lock")

    async def paid(*_):
        await asyncio.sleep(0.2)
        return True

    monkeypatch.setattr(shop, "charge", paid)
    try:
        ends = await asyncio.gather(
            *(shop.buy(f"buyer {number}", 1, "key") for number in range(9)), return_exceptions=True
        )
        refused = [end.code for end in ends if isinstance(end, Refused)]
        assert 4 <= len(refused) <= 8
        assert set(refused) == {"unavailable"}
    finally:
        await closed(shop, [])


async def test_the_mutex_counts_its_locks_and_answers(servers):
    shop, working = await opened(servers, "mutex")
    transport = httpx.ASGITransport(Surface(shop).app())
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:

            async def counted():
                text = (await client.get("/metrics")).text
                samples = [line.rpartition(" ") for line in text.splitlines() if line.startswith("mutex_")]
                return {name: float(value) for name, _, value in samples}

            before = await counted()
            await shop.redis.set("lock:1", "another buyer")
            with pytest.raises(Refused):
                await shop.buy("a buyer", 1, "key")
            await shop.redis.delete("lock:1")
            await shop.buy("a buyer", 1, "key")
            after = await counted()
        for name in (
            'mutex_locks_total{taken="no"}',
            'mutex_locks_total{taken="yes"}',
            'mutex_buys_total{answer="locked"}',
            'mutex_buys_total{answer="accepted"}',
            "mutex_lock_held_seconds_count",
        ):
            assert after[name] == before.get(name, 0) + 1, name
        assert after["mutex_stock"] == UNITS
    finally:
        await closed(shop, working)


async def test_every_approach_streams_its_stock_over_the_product_s_server(servers):
    shop, working = await opened(servers, "redis_queue")
    serving = Server(Served(Surface(shop).app()), HttpSettings())
    await serving.listen(sock := socket.create_server(("127.0.0.1", 0)))
    try:
        reading, writing = await asyncio.open_connection(*sock.getsockname())
        writing.write(b"GET /sse/stock/1 HTTP/1.1\r\nHost: shop\r\n\r\n")
        async with asyncio.timeout(60):
            assert json.loads(await event(reading))["stock"] == UNITS
            await shop.buy("a buyer", 1, "key")
            assert json.loads(await event(reading))["stock"] == UNITS - 1
        writing.close()
    finally:
        await serving.stop(leave_s=0.0, finish_s=0.0)
        await closed(shop, working)


async def event(reading):
    """Return the data of the next event of a stream."""
    while not (line := await reading.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return line.removeprefix(b"data: ")


async def test_a_reservation_that_nobody_pays_in_time_gives_its_unit_back(servers, monkeypatch):
    monkeypatch.setattr("baselines.lua.RESERVED_S", 0)
    shop = Lua(servers)
    await shop.open()
    await shop.create(1, name="Phone", price_minor=1, currency="USD", stock=1)
    await shop.buy("a buyer", 1, "key")
    assert await shop.stock(1) == 0
    expiring = asyncio.create_task(shop.work("expiry"))
    try:
        async with asyncio.timeout(60):
            while await shop.stock(1) == 0:
                await asyncio.sleep(0.02)
    finally:
        await closed(shop, [expiring])
