"""The baselines sell as their architectures do: all but the naive one exactly what there is."""

import asyncio
import time

import httpx
import jwt
import pytest
from baselines.__main__ import SHOPS
from baselines.lua import Lua
from baselines.shop import SCHEMA, Refused, Servers, Surface

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
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    await shop.close()


async def until_final(shop, orders):
    async with asyncio.timeout(20):
        while await shop.pool.fetchval("SELECT count(*) FROM orders WHERE status = 'confirmed'") < orders:
            await asyncio.sleep(0.02)


async def buy(shop, user_id):
    """Buy until there is a definite answer; returns the order, or nothing."""
    async with asyncio.timeout(20):
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


async def test_a_reservation_that_nobody_pays_in_time_gives_its_unit_back(servers, monkeypatch):
    monkeypatch.setattr("baselines.lua.RESERVED_S", 0)
    shop = Lua(servers)
    await shop.open()
    await shop.create(1, name="Phone", price_minor=1, currency="USD", stock=1)
    await shop.buy("a buyer", 1, "key")
    assert await shop.stock(1) == 0
    expiring = asyncio.create_task(shop.work("expiry"))
    try:
        async with asyncio.timeout(10):
            while await shop.stock(1) == 0:
                await asyncio.sleep(0.02)
    finally:
        await closed(shop, [expiring])
