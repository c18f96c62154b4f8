"""Refunds over HTTP: who may ask, what is answered, and what the buyer sees."""

import asyncio
import uuid

import pytest

from tests.support.api import BUY, final


async def until(api, path, headers, wanted):
    """Ask until the answer is what it should become."""
    async with asyncio.timeout(60):
        while not wanted(answer := (await api.get(path, headers=headers)).json()):
            await asyncio.sleep(0.05)
    return answer


@pytest.fixture
async def paid(api, product, buyers):
    """A paid order of 10.00: its id and its buyer's headers."""
    product_id, buyer = await product(stock=3, price="10.00"), next(buyers)
    order_id = (await api.post(BUY, json={"productId": product_id}, headers=buyer)).json()["orderId"]
    assert await final(api, order_id, buyer) == "confirmed"
    return order_id, buyer


async def test_a_refund_is_answered_made_and_shown(api, paid, admin):
    order_id, buyer = paid
    path = f"/api/admin/orders/{order_id}/refunds"
    key = {**admin, "Idempotency-Key": "k"}
    asked = [await api.post(path, json={"amount": "4.00", "reason": "late"}, headers=key) for _ in range(2)]
    assert [one.status_code for one in asked] == [202, 202]
    assert asked[0].content == asked[1].content
    assert asked[0].json()["state"] == "pending"
    [listed] = await until(api, path, admin, lambda refunds: refunds[0]["state"] != "pending")
    assert (listed["state"], listed["amount"], listed["reason"]) == ("succeeded", "4.00", "late")
    seen = (await api.get(f"/api/order/{order_id}/status", headers=buyer)).json()
    assert (seen["status"], seen["totalPrice"], seen["refunded"]) == ("confirmed", "10.00", "4.00")
    more = await api.post(path, json={"amount": "6.01", "reason": "late"}, headers=admin)
    assert (more.status_code, more.json()["code"]) == (409, "refund_too_large")
    assert "6.00 USD" in more.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"reason": ""}, 400),
        ({"reason": "x" * 501}, 400),
        ({"reason": "x", "amount": 4}, 400),
        ({"reason": "x", "amount": "4.001"}, 400),
        ({"reason": "x", "amount": "1e3"}, 400),
        ({"reason": "x", "restock": "yes"}, 400),
        ({"reason": "x", "restock": True, "amount": "4.00"}, 400),
        ({"reason": "x", "currency": "EUR"}, 400),
    ],
)
async def test_a_body_that_is_wrong_is_refused(api, paid, admin, body, status):
    path = f"/api/admin/orders/{paid[0]}/refunds"
    answer = await api.post(path, json=body, headers=admin)
    assert answer.status_code == status, answer.text
    assert (await api.get(path, headers=admin)).json() == []


async def test_only_administrators_give_money_back_and_only_of_orders_that_there_are(api, paid, admin):
    order_id, buyer = paid
    for headers, order, status in ((buyer, order_id, 403), ({}, order_id, 401), (admin, uuid.uuid4(), 404)):
        path = f"/api/admin/orders/{order}/refunds"
        assert (await api.post(path, json={"reason": "x"}, headers=headers)).status_code == status
        assert (await api.get(path, headers=headers)).status_code == status
