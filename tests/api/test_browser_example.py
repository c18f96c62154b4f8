"""`examples/buyer.html` buys in a real browser, from another origin than the API."""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
import uuid

import httpx
import pytest
from playwright.async_api import async_playwright, expect

from flashsale.local.access import free_port
from flashsale.local.stack import ROOT
from tests.support.processes import wait_for

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BUY = "**/api/order/buy-flash"
PASSWORD = "a long password of a buyer"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def site():
    """A web server that has the examples; returns its origin."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=ROOT / "examples")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def host(stack, site):
    """An API process of the stack that allows the origin of the page; returns its address."""
    port = free_port()
    environment = {**stack.environment, "FLASHSALE_HTTP__CORS_ORIGINS": json.dumps([site])}
    command = [sys.executable, "-m", "flashsale.cli", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _ready(url), timeout_s=30)
        yield url
        process.terminate()


def _ready(url):
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
async def page():
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield await browser.new_page()
        await browser.close()


@pytest.fixture
async def account(api):
    email = f"{uuid.uuid4().hex}@example.com"
    body = {"name": "Ann", "email": email, "password": PASSWORD}
    assert (await api.post("/api/auth/register", json=body)).status_code == 201
    return email


async def _press(page, account):
    await page.fill("#email", account)
    await page.fill("#password", PASSWORD)
    await page.click("button")


async def test_the_page_buys_once_although_answers_are_lost_and_it_is_loaded_again(
    page, site, host, account, product, api
):
    product_id = await product(stock=3)
    keys = []

    async def lose_the_first_answer(route):
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            await route.fetch()
            await route.abort()
        else:
            await route.continue_()

    await page.route(BUY, lose_the_first_answer)
    await page.goto(f"{site}/buyer.html?host={host}&product={product_id}")
    await expect(page.locator("#stock")).to_have_text("3")
    await _press(page, account)
    await expect(page.locator("#status")).to_contain_text("confirmed", timeout=15_000)
    await expect(page.locator("#stock")).to_have_text("2")
    bought = await page.locator("#status").text_content()
    await page.reload()
    await _press(page, account)
    await expect(page.locator("#status")).to_have_text(bought, timeout=15_000)
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert (await api.get(f"/api/products/{product_id}")).json()["stock"] == 2


async def test_the_page_shows_why_it_did_not_buy(page, site, host, account, product):
    product_id = await product(stock=0)
    await page.goto(f"{site}/buyer.html?host={host}&product={product_id}")
    await _press(page, account)
    await expect(page.locator("#status")).to_contain_text("Sold out.", timeout=15_000)
