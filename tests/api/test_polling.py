"""Polls with entity tags, over real connections: 304 until something changed, and never after it did."""

import asyncio

from tests.support.api import BUY, final, waiting_order


async def polled(api, path, headers, tag):
    answer = await api.get(path, headers={**headers, "If-None-Match": tag})
    assert answer.headers["etag"]
    if answer.status_code == 304:
        assert answer.headers["etag"].removeprefix("W/") in tag
        assert not answer.content
        assert "content-length" not in answer.headers
        assert "content-type" not in answer.headers
    return answer


async def test_a_poll_with_the_tag_gets_a_304_until_something_changed(api, product, admin, buyer):
    product_id = await product(paymentMode="by_buyer")
    order_id = await waiting_order(api, product_id, buyer)
    changes = {
        f"/api/products/{product_id}": [("a sold unit", lambda: api.post(BUY, json={"productId": product_id}, headers=buyer)),
                                        ("a new name", lambda: api.patch(f"/api/admin/products/{product_id}", json={"name": "x"}, headers=admin))],
        "/api/products": [("another product", product)],
        f"/api/order/{order_id}/status": [("a cancellation", lambda: api.post(f"/api/order/{order_id}/cancel", headers=buyer))],
    }  # fmt: skip
    for path, made in changes.items():
        headers = buyer if "order" in path else {}
        first = await api.get(path, headers=headers)
        assert first.status_code == 200
        tag = first.headers["etag"]
        # A product tells the time, which its tag leaves out.
        assert tag.startswith("W/") == path.startswith("/api/products")
        tag = tag.removeprefix("W/")
        assert first.headers["cache-control"] == ("no-store" if "order" in path else "no-cache")
        assert (await api.get(path, headers={**headers, "If-None-Match": "*"})).status_code == 304
        for sent in (tag, f"W/{tag}", f'"x", {tag}'):
            again = await polled(api, path, headers, sent)
            assert again.status_code == 304, (path, sent)
            assert again.headers["cache-control"] == first.headers["cache-control"]
        assert (await polled(api, path, headers, '"another"')).status_code == 200
        assert (await api.head(path, headers={**headers, "If-None-Match": tag})).status_code == 304
        for what, change in made:
            await change()
            async with asyncio.timeout(60):
                while (answer := await polled(api, path, headers, tag)).status_code == 304:
                    await asyncio.sleep(0.02)  # the other process may not have heard of it yet
            assert answer.headers["etag"].removeprefix("W/") != tag, what
            assert answer.status_code == 200
            tag = answer.headers["etag"].removeprefix("W/")


async def test_a_304_is_never_said_of_what_the_client_does_not_have(api, product, buyer):
    order_id = (await api.post(BUY, json={"productId": await product()}, headers=buyer)).json()["orderId"]
    path, tag, seen = f"/api/order/{order_id}/status", '""', []
    have = {"version": 0, "status": ""}
    while not seen or seen[-1] != "confirmed":
        plain = (await api.get(path, headers=buyer)).json()
        answer = await polled(api, path, buyer, tag)
        if answer.status_code == 200:
            have, tag = answer.json(), answer.headers["etag"]
        assert have["version"] >= plain["version"], "what the tag stands for is as new as an answer before it"
        seen.append(have["status"])
    assert await final(api, order_id, buyer) == "confirmed"


async def test_what_is_no_look_or_no_success_has_no_tag(api, product, admin, buyer):
    product_id = await product()
    answers = [
        await api.post(BUY, json={"productId": product_id}, headers={**buyer, "If-None-Match": "*"}),
        await api.get("/api/products/2147483647", headers={"If-None-Match": "*"}),
        await api.get(f"/api/order/{product_id}/status", headers={"If-None-Match": "*"}),
    ]
    assert [answer.status_code for answer in answers] == [202, 404, 404]
    assert not [answer for answer in answers if "etag" in answer.headers]
