"""A shop of two cells: each sells its products, neither needs the other, and what is misdirected is told where to go."""

import asyncio
import json
import uuid

import asyncpg
import httpx
import pytest

from flashsale.domain.cells import home_of_order
from tests.cells.shop import create, tokens_of, two_cells
from tests.cells.trial import trial
from tests.support.api import BUY, admin_headers
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
    async with asyncio.timeout(60):
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


async def export(shop, token, folder, *more):
    """Run `flashsale cells export` through the router; returns the exit code and the lines, without their padding."""
    named = {"FLASHSALE_URL": shop.router, "FLASHSALE_TOKEN": token}
    done = await shop.command(0, "cells", "export", "--to", str(folder), *more, **named)
    return done.returncode, [" ".join(line.split()) for line in done.stdout.splitlines()]


async def exports_have_the_orders_of_all_cells(shop, token, folder, sold):
    """Export the orders of both cells, and compare what is printed with what was sold."""
    paid = {cell: f"{count} orders; USD: {count * 999 / 100:.2f} paid, 0.00 refunded" for cell, count in sold.items()}
    for form in ("csv", "jsonl"):
        code, lines = await export(shop, token, folder, "--cells", "2", "--status", "confirmed", "--format", form)
        assert (code, lines[:2]) == (0, [f"ok cell-{cell} {paid[cell]}" for cell in (0, 1)])
        total = sum(sold.values())
        assert lines[2:] == [f"ok sum {total} orders; USD: {total * 999 / 100:.2f} paid, 0.00 refunded"]
    for cell, count in sold.items():
        lines = (folder / f"cell-{cell}.jsonl").read_text().splitlines()
        homes = {home_of_order(uuid.UUID(json.loads(line)["orderId"])) for line in lines}
        assert (len(lines), homes) == (count, {cell})
    # The router knows no such cell.
    code, lines = await export(shop, token, folder, "--cells", "3")
    assert (code, lines[-1]) == (1, "FAILED sum 1 of 3 cells missing")
    assert lines[2].startswith("FAILED cell-2 ")
    assert lines[2].endswith("/cells/2 answered 404: Not Found")
    assert not (folder / "cell-2.csv").exists()


async def a_product_moves(shop, router, admin):
    """Move a product to the other cell by the command, and follow it there as a buyer does."""
    product = await create(shop, 0, UNITS)
    headers = {"Authorization": f"Bearer {admin}"}
    files = shop.files()
    move = ("cells", "move", str(product), "--from", files[0], "--to", files[1])
    refused = await shop.command(0, *move)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "flashsale: The product is on sale: pause it, or end its sale.\n"
    assert (await router.post(f"/api/admin/products/{product}/pause", headers=headers)).status_code == 200
    # The units left, and the command was killed: the audit says how to go on.
    connection = await asyncpg.connect(shop.stacks[0].environment["FLASHSALE_POSTGRES__OWNER_URL"])
    assert await connection.fetchval("SELECT leave_cell_v1($1, $2, 1, false)", product, uuid.uuid4()) == "left"
    await connection.close()
    checked = await shop.check("audit")
    assert checked.returncode == 1
    assert f"`flashsale cells move {product}`" in checked.stdout
    moved = await shop.command(0, *move)
    assert moved.returncode == 0, moved.stderr
    became = int(moved.stdout.removesuffix(".\n").rpartition(" ")[2])
    assert moved.stdout == f"{UNITS} units of product {product} are product {became}.\n"
    assert (await shop.command(0, *move)).stdout == moved.stdout
    buyer = await register(router)
    told = await answers(router, 409, "POST", BUY, json={"productId": product}, headers=buyer)
    assert (told.json()["code"], told.json()["movedTo"]) == ("sale_moved", became)
    assert (await router.get(f"/api/products/{product}")).json()["movedTo"] == became
    page = await router.get(f"/p/{product}?lang=de")
    assert (page.status_code, page.headers["location"]) == (303, f"/p/{became}?lang=de")
    assert (await router.get(page.headers["location"])).status_code == 200
    resumed = await answers(router, 200, "POST", f"/api/admin/products/{became}/resume", headers=headers)
    assert resumed.json()["allotment"] == UNITS
    sent = {"json": {"productId": became}, "headers": {**buyer, "Flashsale-Product": str(became)}}
    await answers(router, 202, "POST", BUY, **sent)
    links = (("/", '"/cells/1/"'), ("/cells/1/", '"/"'), ("/", '"/?lang=de"'), ("/cells/1/", '"/cells/1/?lang=de"'))
    for page, path in links:
        assert path in (await router.get(page)).text


async def a_sign_in_leads_back_to_the_orders_of_its_cell(router):
    sent = {"name": "Ada", "email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse battery"}
    assert (await router.post("/api/auth/register", json=sent)).status_code == 201
    for orders in ("/orders", "/cells/1/orders"):
        sign_in = (await router.get(orders)).headers["location"]
        assert sign_in == f"/sign-in?next={orders}"
        own = {
            "Origin": router.base_url.scheme + "://" + router.base_url.netloc.decode(),
            "Sec-Fetch-Site": "same-origin",
        }
        done = await router.post("/sign-in", data={**sent, "next": orders}, headers=own)
        assert (done.status_code, done.headers["location"]) == (303, orders)
        assert f'"{orders}?lang=de"' in (await router.get(orders)).text
        router.cookies.clear()


async def confirmed(shop):
    """Count the confirmed orders by cell."""
    counts = {}
    for cell, stack in enumerate(shop.stacks):
        connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__OWNER_URL"])
        counts[cell] = await connection.fetchval("SELECT count(*) FROM orders WHERE status = 'confirmed'")
        await connection.close()
    return counts


async def test_two_cells_sell_and_neither_needs_the_other(tmp_path):
    async with two_cells(tmp_path) as shop, httpx.AsyncClient(base_url=shop.router, timeout=60) as router:
        urls = [stack.base_url for stack in shop.stacks]
        async with httpx.AsyncClient(base_url=urls[0]) as there, httpx.AsyncClient(base_url=urls[1]) as here:
            await misdirected_requests_change_nothing(shop, router, (there, here))
            await accounts_arrive_late_and_end_everywhere(shop, router, here)
        admin = (await asyncio.to_thread(admin_headers, shop.stacks[0]))["Authorization"].removeprefix("Bearer ")
        await a_product_moves(shop, router, admin)
        await a_sign_in_leads_back_to_the_orders_of_its_cell(router)
        done = await trial(shop, dead=1, units=UNITS, buyers=BUYERS, over_s=1.0)
        assert not done.faults(UNITS, BUYERS)
        sold = await confirmed(shop)
        assert all(count >= UNITS for count in sold.values())
        await exports_have_the_orders_of_all_cells(shop, admin, tmp_path / "exports", sold)
        product, (token,) = await create(shop, 1, 1), await tokens_of(shop, 1)
        await shop.kill(0)
        # The token in hand goes on, and nobody gets another.
        headers = {"Authorization": f"Bearer {token}", "Flashsale-Product": str(product)}
        assert (await router.post(BUY, json={"productId": product}, headers=headers)).status_code == 202
        login = {"email": "a@example.com", "password": "correct horse battery"}
        assert (await router.post("/api/auth/login", json=login)).status_code == 503
        code, lines = await export(shop, admin, tmp_path / "exports", "--cells", "2")
        assert (code, [line.split()[:2] for line in lines]) == (
            1,
            [["FAILED", "cell-0"], ["ok", "cell-1"], ["FAILED", "sum"]],
        )
        # A cell that cannot be asked has a line and fails the whole.
        checked = await shop.check("status")
        assert checked.returncode == 1
        assert [line.split()[:2] for line in checked.stdout.splitlines()] == [["FAILED", "cell-0"], ["ok", "cell-1"]]
