"""A shop of two cells: each sells its products, neither needs the other, and what is misdirected is told where to go."""

import asyncio
import uuid

import asyncpg
import httpx
import pytest

from tests.cells.shop import create, tokens_of, two_cells
from tests.cells.trial import trial
from tests.support.api import BUY
from tests.support.shipped_nginx import BINARIES

pytestmark = pytest.mark.skipif(not BINARIES, reason="needs nginx")

UNITS, BUYERS = 12, 36


async def register(client):
    """Register somebody of whom nobody knows; returns the headers of the token."""
    body = {"name": "Ada", "email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse battery"}
    answer = await client.post("/api/auth/register", json=body)
    assert answer.status_code == 201, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


async def answers(client, status, method, path, **request):
    """Send a request again until the answer has a status; returns it."""
    async with asyncio.timeout(30):
        while (answer := await client.request(method, path, **request)).status_code != status:
            await asyncio.sleep(0.1)
    return answer


async def assert_misdirected(client, cell, method, path, **request):
    """Check that an answer sends the caller to a cell."""
    answer = await client.request(method, path, **request)
    assert answer.status_code == 421, (path, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["cell"]) == ("other_cell", cell)


async def misdirected_requests_change_nothing(shop, router, cells):
    """Send each kind of request to the wrong cell."""
    there, here = cells
    product = await create(shop, 1, UNITS)
    buyer = await register(router)
    bought = await answers(
        router, 202, "POST", BUY, json={"productId": product}, headers={**buyer, "Flashsale-Product": str(product)}
    )
    order = bought.json()["orderId"]
    assert order[14:18] == "8001"
    # By its id alone the router finds the order.
    assert (await router.get(f"/api/order/{order}/status", headers=buyer)).json()["orderId"] == order
    await assert_misdirected(there, 1, "GET", f"/api/order/{order}/status", headers=buyer)
    await assert_misdirected(there, 1, "POST", f"/api/order/{order}/cancel", headers=buyer)
    await assert_misdirected(there, 1, "GET", f"/api/products/{product}")
    await assert_misdirected(router, 1, "POST", BUY, json={"productId": product}, headers=buyer)
    await assert_misdirected(here, 0, "POST", BUY, json={"productId": 1}, headers=buyer)
    email = f"{uuid.uuid4().hex}@example.com"
    body = {"name": "Ada", "email": email, "password": "correct horse battery"}
    await assert_misdirected(here, 0, "POST", "/api/auth/register", json=body)
    known = {name: body[name] for name in ("email", "password")}
    assert (await router.post("/api/auth/login", json=known)).status_code == 401
    # What no cell has is not found, in either.
    for client in (there, here):
        assert (await client.get("/api/products/30000001")).status_code == 404


async def accounts_arrive_late_and_end_everywhere(shop, router, here):
    """Interrupt the copy of accounts: a buyer whose account is not there is told to come again, and a sign-out arrives."""
    product = await create(shop, 1, UNITS)
    connection = await asyncpg.connect(shop.stacks[1].environment["FLASHSALE_POSTGRES__OWNER_URL"])
    try:
        await connection.execute("ALTER SUBSCRIPTION flashsale_cell_1 DISABLE")
        buyer = await register(router)
        sent = {"json": {"productId": product}, "headers": {**buyer, "Idempotency-Key": "one"}}
        refused = await here.post(BUY, **sent)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        await connection.execute("ALTER SUBSCRIPTION flashsale_cell_1 ENABLE")
        order = (await answers(here, 202, "POST", BUY, **sent)).json()["orderId"]
    finally:
        await connection.close()
    assert (await router.post("/api/auth/logout", headers=buyer)).status_code == 204
    assert (await answers(here, 401, "GET", f"/api/order/{order}/status", headers=buyer)).json()[
        "code"
    ] == "unauthenticated"


async def test_two_cells_sell_and_neither_needs_the_other(tmp_path):
    async with two_cells(tmp_path) as shop, httpx.AsyncClient(base_url=shop.router, timeout=20) as router:
        urls = [stack.base_url for stack in shop.stacks]
        async with httpx.AsyncClient(base_url=urls[0]) as there, httpx.AsyncClient(base_url=urls[1]) as here:
            await misdirected_requests_change_nothing(shop, router, (there, here))
            await accounts_arrive_late_and_end_everywhere(shop, router, here)
        done = await trial(shop, dead=1, units=UNITS, buyers=BUYERS, over_s=1.0)
        assert not done.faults(UNITS, BUYERS)
        product, (token,) = await create(shop, 1, 1), await tokens_of(shop, 1)
        await shop.kill(0)
        # The token in hand goes on, and nobody gets another.
        headers = {"Authorization": f"Bearer {token}", "Flashsale-Product": str(product)}
        assert (await router.post(BUY, json={"productId": product}, headers=headers)).status_code == 202
        login = {"email": "a@example.com", "password": "correct horse battery"}
        assert (await router.post("/api/auth/login", json=login)).status_code == 503
        # A cell that cannot be asked has a line and fails the whole.
        checked = await shop.check("status")
        assert checked.returncode == 1
        assert [line.split()[:2] for line in checked.stdout.splitlines()] == [["FAILED", "cell-0"], ["ok", "cell-1"]]
