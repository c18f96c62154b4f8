"""A buyer finds the orders of the account, and nobody else's, a page at a time; a product tells what a page must show."""

import asyncio
from datetime import UTC, datetime, timedelta

from tests.support.api import BUY, waiting_order

ORDERS = "/api/orders"


async def test_a_buyer_who_lost_the_page_finds_what_is_held_and_pays_or_cancels_it(api, product, make_buyers):
    owner, other = make_buyers(2)
    product_id = await product(paymentMode="by_buyer")
    held = [await waiting_order(api, product_id, owner) for _ in range(2)]
    foreign = await waiting_order(api, product_id, other)
    found = (await api.get(ORDERS, headers=owner)).json()
    assert [one["orderId"] for one in found] == held[::-1]
    for one in found:
        assert one == (await api.get(f"/api/order/{one['orderId']}/status", headers=owner)).json()
        assert one["status"] == "awaiting_payment"
        left = datetime.fromisoformat(one["payBy"]) - datetime.now(UTC)
        assert timedelta(0) < left <= timedelta(seconds=300)
    assert (await api.post(f"/api/order/{found[0]['orderId']}/pay", headers=owner)).status_code == 202
    assert (await api.post(f"/api/order/{found[1]['orderId']}/cancel", headers=owner)).status_code == 200
    assert [one["orderId"] for one in (await api.get(ORDERS, headers=other)).json()] == [foreign]


async def test_pages_hold_each_order_once_while_new_ones_come(api, product, make_buyers):
    [owner] = make_buyers(1)
    product_id = await product(stock=100)

    async def buy():
        return (await api.post(BUY, json={"productId": product_id}, headers=owner)).json()["orderId"]

    bought = [await buy() for _ in range(5)]
    seen, query = [], "?limit=2"
    while page := (await api.get(ORDERS + query, headers=owner)).json():
        assert len(page) <= 2
        seen += [one["orderId"] for one in page]
        query = f"?limit=2&before={seen[-1]}"
        bought.append(await buy())
    assert seen == bought[4::-1]
    assert len((await api.get(ORDERS, headers=owner)).json()) == len(bought)


async def test_a_page_of_a_wrong_size_or_place_is_refused(api, buyer):
    for query in ("?limit=0", "?limit=101", "?limit=x", "?before=7", "?before=", "?after=7", "?limit=1&limit=2"):
        answer = await api.get(ORDERS + query, headers=buyer)
        assert answer.status_code == 400, query
        assert answer.json()["code"] in {"invalid_input", "invalid_request"}


async def test_a_product_tells_everything_that_its_page_shows(api, product, admin):
    opens = datetime.now(UTC) + timedelta(hours=1)
    terms = {"paymentMode": "by_buyer", "paymentWindowS": 120, "limitPerBuyer": 2, "limitPer": "email_root",
             "startsAt": opens.isoformat(), "endsAt": (opens + timedelta(hours=1)).isoformat()}  # fmt: skip
    path = f"/api/products/{await product(**terms)}"
    shown = (await api.get(path)).json()
    for field in ("startsAt", "endsAt"):
        assert datetime.fromisoformat(shown[field]) == datetime.fromisoformat(terms.pop(field))
    assert {name: shown[name] for name in terms} == terms
    assert shown["paused"] is False
    await api.post(path.replace("/api/", "/api/admin/") + "/pause", headers=admin)
    async with asyncio.timeout(60):
        while not (await api.get(path)).json()["paused"]:
            await asyncio.sleep(0.02)  # the other process may not have heard of it yet


async def test_the_time_of_a_product_goes_on_while_its_tag_stays(api, product):
    path = f"/api/products/{await product()}"
    for looked in (path, "/api/products"):
        first, told = await api.get(looked), set()
        async with asyncio.timeout(60):
            while len(told) < 3:
                answer = await api.get(looked)
                body = answer.json()
                now = datetime.fromisoformat((body[-1] if isinstance(body, list) else body)["now"])
                assert abs(datetime.now(UTC) - now) < timedelta(seconds=60)
                told.add(now)
                assert answer.headers["etag"] == first.headers["etag"]
        assert (await api.get(looked, headers={"If-None-Match": first.headers["etag"]})).status_code == 304


async def test_one_buyer_does_not_hold_the_last_unit_again_and_again(api, product, make_buyers):
    owner, other = make_buyers(2)
    product_id = await product(paymentMode="by_buyer", stock=1, limitPerBuyer=1, cooldownS=600)
    held = await waiting_order(api, product_id, owner)
    assert (await api.post(f"/api/order/{held}/cancel", headers=owner)).status_code == 200
    for _ in range(5):
        refused = await api.post(BUY, json={"productId": product_id}, headers=owner)
        assert (refused.status_code, refused.json()["code"]) == (409, "cooling_down")
        left = datetime.fromisoformat(refused.json()["endsAt"]) - datetime.now(UTC)
        assert timedelta(seconds=540) < left <= timedelta(seconds=602)
    async with asyncio.timeout(60):
        while (answer := await api.post(BUY, json={"productId": product_id}, headers=other)).status_code != 202:
            assert answer.status_code in {409, 503}
            await asyncio.sleep(0.02)  # the gate may not have heard of the unit yet
    assert (await api.get(f"/api/products/{product_id}")).json()["cooldownS"] == 600
