"""The page of docs/reference/calls.md, in a real browser: a token that expired costs it no event."""

import json
import re
import shutil
import time

import pytest
from playwright.async_api import async_playwright

from flashsale.local.stack import ROOT
from tests.api.test_streams import reissued
from tests.support.api import waiting_order

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; on Debian: apt-get install chromium")


@pytest.fixture
async def page():
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield await browser.new_page()
        await browser.close()


async def test_the_documented_page_renews_an_expired_token_and_sees_every_state(api, stack, product, buyer, page):
    (script,) = re.findall(r"```html\n(.*?)```", (ROOT / "docs/reference/calls.md").read_text(), re.DOTALL)
    order_id = await waiting_order(api, await product(paymentMode="by_buyer"), buyer)
    opened, tokens = [], []

    async def expired_at_first(route):
        answer = await route.fetch()
        body = await answer.json()
        tokens.append(body["token"])
        if len(tokens) == 1:
            body["token"] = reissued(body["token"], stack.secrets["jwt_secret"], exp=int(time.time()) - 1)
        await route.fulfill(response=answer, json=body)

    page.on("request", lambda request: opened.append(request.url) if "/sse/orders/" in request.url else None)
    await page.route("**/shop.html", lambda route: route.fulfill(content_type="text/html", body=script))
    await page.route("**/stream-token", expired_at_first)
    await page.goto(f"{stack.base_url}/shop.html")
    login = buyer["Authorization"].removeprefix("Bearer ")
    await page.evaluate(
        "([order, login]) => { window.shown = []; watchOrder(order, login, (one) => window.shown.push(one)); }",
        [order_id, login],
    )
    await page.wait_for_function("() => window.shown.some((one) => one.status === 'awaiting_payment')")
    assert len(tokens) == 2
    assert len(opened) == 2
    assert (await api.post(f"/api/order/{order_id}/cancel", headers=buyer)).status_code == 200
    await page.wait_for_function("() => window.shown.some((one) => one.status === 'cancelled')")
    assert "error" not in json.dumps(await page.evaluate("() => window.shown"))
