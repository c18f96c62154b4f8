"""Each currency over the API: the decimals are its own wherever an amount goes in or comes out."""

from __future__ import annotations

import asyncio

from flashsale.domain.money import EXPONENTS, Money

QUANTITY = 3


async def test_in_each_currency_every_route_writes_the_price_that_was_sent(api, admin, product, buyers):
    buyer = next(buyers)

    async def sell(code):
        one = Money(minor=1_234_567, currency=code)
        product_id = await product(price=str(one), currency=code, paymentMode="by_buyer")
        path = f"/api/admin/products/{product_id}"
        changed = await api.patch(path, json={"paymentWindowS": 301}, headers=admin)
        shown = [changed, await api.get(path, headers=admin), await api.get(f"/api/products/{product_id}")]
        bought = await api.post(
            "/api/order/buy-flash", json={"productId": product_id, "quantity": QUANTITY}, headers=buyer
        )
        status = (await api.get(bought.json()["checkStatusUrl"], headers=buyer)).json()
        listed = await api.get(f"/api/admin/orders?productId={product_id}", headers=admin)
        [order] = listed.json()
        said = [answer.json() for answer in shown] + [bought.json()["product"], status["product"], order["product"]]
        assert {(each["price"], each["currency"]) for each in said} == {(str(one), code)}
        totals = {(each["totalPrice"], each["currency"]) for each in (status, order)}
        assert totals == {(str(one.times(QUANTITY)), code)}

    codes = sorted(EXPONENTS)
    for start in range(0, len(codes), 10):
        await asyncio.gather(*(sell(code) for code in codes[start : start + 10]))
    for one in (await api.get("/api/products")).json():
        assert len(one["price"].partition(".")[2]) == EXPONENTS[one["currency"]]


async def test_in_each_currency_too_many_decimals_are_refused_and_nothing_is_made(api, admin, database):
    count = "SELECT count(*) FROM products"
    before = await database.fetchval(count)
    cases = [(code, "1." + "0" * (exponent + 1)) for code, exponent in EXPONENTS.items()]
    for code, price in [*cases, ("JPY", "10.50"), ("QQQ", "1"), ("XAU", "1"), ("usd", "1"), ("", "1")]:
        body = {"name": "Phone", "price": price, "currency": code, "stock": 1}
        answer = await api.post("/api/admin/products", json=body, headers=admin)
        field = "price" if code in EXPONENTS else "currency"
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (400, "invalid_input", field), (
            code
        )
    assert await database.fetchval(count) == before
