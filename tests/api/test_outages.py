"""Servers that go away in mid-sale: the sale goes on or says 503, nothing is lost, and it recovers by itself."""

import asyncio
import signal

import httpx
import pytest

from flashsale.local.stack import Stack
from tests.api.conftest import FAST, admin_headers, audit, buyer_headers

BUY = "/api/order/buy-flash"


@pytest.fixture
def own_stack(tmp_path):
    """A stack that may be broken: nobody else uses it."""
    stack = Stack(tmp_path, port=0, environment=FAST)
    asyncio.run(stack.start())
    yield stack
    asyncio.run(stack.stop())


class Crowd:
    """Buyers that press one after the other, each with a key, repeating after 503 and lost answers."""

    def __init__(self, stack, product_id, headers):
        self.stack = stack
        self.product_id = product_id
        self.headers = headers
        self.accepted = {}
        self.refused = 0
        self.statuses = set()

    async def press(self, client, number, *, deadline_s=60):
        headers = {**self.headers[number], "Idempotency-Key": f"k{number}"}
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    answer = await client.post(BUY, json={"productId": self.product_id}, headers=headers)
                except httpx.TransportError:
                    self.statuses.add(0)
                    await asyncio.sleep(0.1)
                    continue
                self.statuses.add(answer.status_code)
                if answer.status_code == 503:
                    assert answer.headers["retry-after"]
                    await asyncio.sleep(0.1)
                    continue
                if answer.status_code == 202:
                    self.accepted[number] = answer.json()["orderId"]
                else:
                    assert answer.json()["code"] == "sold_out", answer.text
                    self.refused += 1
                return


async def sale(stack, disturb, *, units=60, buyers=120):
    """Sell while `disturb` happens; gives the crowd once all orders are final."""
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=10) as client:
        body = {"name": "Phone", "price": "1", "stock": units}
        product_id = (await client.post("/api/admin/products", json=body, headers=admin_headers(stack))).json()["id"]
        crowd = Crowd(stack, product_id, buyer_headers(stack, buyers))
        first, second = range(buyers // 3), range(buyers // 3, buyers)
        await asyncio.gather(*(crowd.press(client, number) for number in first))
        disturbing = asyncio.create_task(disturb())
        await asyncio.gather(*(crowd.press(client, number) for number in second), disturbing)
        for number, order_id in crowd.accepted.items():
            async with asyncio.timeout(90):
                while (await status(client, order_id, crowd.headers[number])) not in {"confirmed", "payment_failed"}:
                    await asyncio.sleep(0.1)
        return crowd


async def status(client, order_id, headers):
    answer = await client.get(f"/api/order/{order_id}/status", headers=headers)
    return answer.json().get("status")


def check(stack, crowd, *, units=60):
    assert len(crowd.accepted) == units
    assert len(set(crowd.accepted.values())) == units
    assert crowd.statuses <= {0, 202, 409, 503}
    done = audit(stack)
    assert done.returncode == 0, done.stdout


def test_redis_dies_and_the_sale_goes_on_and_the_gate_comes_back(own_stack):
    async def disturb():
        await own_stack.valkey.kill()
        await asyncio.sleep(0.5)
        await own_stack.valkey.start()

    crowd = asyncio.run(sale(own_stack, disturb))
    check(own_stack, crowd)
    ready = asyncio.run(until_loaded(own_stack))
    assert ready["gate"] == "loaded"


async def until_loaded(stack):
    async with httpx.AsyncClient(base_url=stack.base_url) as client:
        for _ in range(100):
            ready = (await client.get("/health/ready")).json()
            if ready["gate"] == "loaded":
                break
            await asyncio.sleep(0.1)
    return ready


def test_postgres_dies_and_comes_back(own_stack):
    async def disturb():
        await own_stack.postgres.kill()
        async with httpx.AsyncClient(base_url=own_stack.base_url, timeout=20) as client:
            answer = await client.get("/health/ready")
            assert answer.status_code == 503
        await own_stack.postgres.start()

    crowd = asyncio.run(sale(own_stack, disturb))
    assert 503 in crowd.statuses
    check(own_stack, crowd)


def test_every_kind_of_process_is_killed_and_started_again(own_stack):
    async def disturb():
        for role, index in (("api", 0), ("orders", 0), ("payments", 0), ("maintenance", 0), ("simulator", 0)):
            await own_stack.kill(role, index)
            await own_stack.start_child(role, index)

    crowd = asyncio.run(sale(own_stack, disturb))
    check(own_stack, crowd)


def test_told_to_stop_each_process_finishes_what_it_has_begun(own_stack):
    async def disturb():
        for role in ("api", "orders", "payments"):
            child = own_stack.children[role][0]
            assert await child.stop(signal.SIGTERM) == 0
            await own_stack.start_child(role, 0)

    crowd = asyncio.run(sale(own_stack, disturb))
    check(own_stack, crowd)
