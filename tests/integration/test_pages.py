"""Pages of the storefront over real servers in this process: payment providers, limits and what was not decided."""

import re
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import httpx
import pytest

from flashsale import pages
from flashsale.bootstrap.api import open_services
from flashsale.domain.errors import Unavailable
from flashsale.domain.products import PaymentMode
from flashsale.domain.requests import BuyRequest
from flashsale.domain.users import Principal, Role
from flashsale.http.app import build_app
from flashsale.http.auth import Tokens
from flashsale.http.streams.hub import LiveHub
from flashsale.pages.assets import POLICY
from flashsale.pages.storefront.order_pages import WITH_STRIPE
from flashsale.settings.cells import CellSettings
from tests.api.test_storefront import key_of
from tests.conftest import add_buyers, add_product, make_settings
from tests.support.provider import Provider


@asynccontextmanager
async def shop(postgres_url, valkey, *, provider=None, change=lambda services: services, **groups):
    """Serve pages to a buyer; returns the buyer's browser, the services and the buyer's id."""
    settings = make_settings(postgres_url, valkey.url, **groups)
    async with open_services(settings, name="test", provider=provider) as services:
        app = build_app(change(services), LiveHub(services), pages.routes)
        (user_id,) = await add_buyers(services, 1)
        token = Tokens(settings.auth).issue(Principal(user_id=user_id, role=Role.BUYER))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://shop.example",
            headers={"Origin": "http://shop.example"},
            cookies={"flashsale": token},
        ) as browser:
            yield browser, services, user_id


async def waiting(services, user_id):
    """Order a product that its buyer pays; returns the order's id."""
    product = await add_product(services, payment_mode=PaymentMode.BY_BUYER)
    accepted = await services.buy(BuyRequest(user_id, product.product_id, 1, None))
    await services.order_rows.process([accepted.order_id], payment_due_s=30)
    return accepted.order_id


def secret_of(page):
    (secret,) = re.findall(r'data-secret="([^"]+)"', page.text)
    return secret


async def test_a_cell_says_no_definite_no_about_what_another_cell_knows(postgres_url, valkey, redis):
    def of_cell(services):
        of_two = CellSettings(number=1, count=2)
        return replace(services, settings=services.settings.model_copy(update={"cell": of_two}))

    async with shop(postgres_url, valkey, change=of_cell) as (browser, services, _):
        for path in ("/p/4711", "/p/4711/buy", f"/order/{uuid4()}"):
            page = await browser.get(path)
            assert (page.status_code, "main address" in page.text) == (421, True), path
        assert (await browser.get("/p/10004711")).status_code == 404
        credentials = {"email": "nobody@example.com", "password": "a long password"}
        assert (await browser.post("/sign-in", data=credentials)).status_code == 421
        # This account is registered in cell 0, and its copy has not arrived.
        token = Tokens(services.settings.auth).issue(Principal(user_id=uuid4(), role=Role.BUYER))
        browser.cookies.clear()
        browser.cookies.set("flashsale", token)
        product = await add_product(services)
        page = await browser.post(f"/p/{product.product_id}/buy", data={"key": "a-key"})
        assert (page.status_code, key_of(page)) == (503, "a-key")


async def test_the_element_of_stripe_is_on_the_page_of_a_payment_alone(postgres_url, valkey, redis):
    groups = {"payments": {"provider": "stripe"}, "stripe": {"publishable_key": "pk_test_4711"}}
    async with shop(postgres_url, valkey, provider=Provider(), **groups) as (browser, services, user_id):
        order_id = await waiting(services, user_id)
        page = await browser.get(f"/order/{order_id}")
        assert page.headers["content-security-policy"] == POLICY.decode()
        assert "data-kept" not in page.text.partition("<details>")[0]
        paying = await browser.post(f"/order/{order_id}/pay")
        assert paying.status_code == 200
        assert paying.headers["content-security-policy"] == WITH_STRIPE.decode()
        assert 'data-key="pk_test_4711" data-secret="pi_0_' in paying.text
        assert re.search(rf'data-back="/order/{order_id}".*role="timer" data-until="20', paying.text, re.DOTALL)
        again = await browser.post(f"/order/{order_id}/pay")
        assert secret_of(again) == secret_of(paying)


async def test_a_payment_that_the_pages_cannot_take_is_no_dead_end(postgres_url, valkey, redis):
    async with shop(postgres_url, valkey, provider=Provider(), payments={"provider": "stripe"}) as (browser, *rest):
        order_id = await waiting(*rest)
        answer = await browser.post(f"/order/{order_id}/pay")
        assert (answer.status_code, "cannot take this payment" in answer.text) == (409, True)
        assert 'data-state="pay"' in answer.text


async def test_the_page_of_the_provider_is_a_link(postgres_url, valkey, redis):
    class WithPage(Provider):
        async def open_intent(self, **asked):
            intent = await super().open_intent(**asked)
            return replace(intent, client_secret=None, page_url="https://pay.example/c/1?a=1&b=2")

    async with shop(postgres_url, valkey, provider=WithPage(), payments={"provider": "stripe"}) as (browser, *rest):
        paying = await browser.post(f"/order/{await waiting(*rest)}/pay")
        assert 'href="https://pay.example/c/1?a=1&amp;b=2"' in paying.text
        assert paying.headers["content-security-policy"] == POLICY.decode()


async def test_a_shop_that_takes_the_money_by_hand_says_how(postgres_url, valkey, redis):
    groups = {"payments": {"provider": "manual"}, "pages": {"payment_hint": "IBAN <DE00>", "shop_name": "Ann & Bob"}}
    async with shop(postgres_url, valkey, **groups) as (browser, *rest):
        page = await browser.get(f"/order/{await waiting(*rest)}")
        assert "How to pay: IBAN &lt;DE00&gt;" in page.text
        assert "Ann &amp; Bob</a>" in page.text
        assert "/pay" not in page.text


async def test_a_form_keeps_its_key_while_nothing_is_decided(postgres_url, valkey, redis):
    async def away(_request):
        raise Unavailable("Too much at once; send the same request again.")

    lost = {"change": lambda services: replace(services, buy=away)}
    async with shop(postgres_url, valkey, **lost) as (browser, services, _):
        path = f"/p/{(await add_product(services)).product_id}/buy"
        form = await browser.get(path, follow_redirects=True)
        answer = await browser.post(path, data={"key": key_of(form)})
        assert (answer.status_code, key_of(answer)) == (503, key_of(form))
        assert "retry-after" in answer.headers


@pytest.fixture
def an_hour_is_a_window(monkeypatch):
    monkeypatch.setattr("flashsale.http.limits.WINDOW_S", 3600)


async def test_pages_of_orders_are_limited_like_calls(postgres_url, valkey, redis, an_hour_is_a_window):
    async with shop(postgres_url, valkey, limits={"orders": 2}) as (browser, *_):
        answers = [await browser.get("/orders") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].headers["content-type"] == "text/html; charset=utf-8"
        assert [len(answer.headers.get_list("ratelimit")) for answer in answers] == [1, 1, 1]


async def test_an_error_is_a_page_that_no_cache_keeps(postgres_url, valkey, redis):
    async def broken(*_arguments, **_named):
        raise RuntimeError

    def change(services):
        orders = services.orders
        orders.get = broken
        return services

    async with shop(postgres_url, valkey, change=change) as (browser, *_):
        answer = await browser.get("/order/0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58")
        assert (answer.status_code, answer.headers["cache-control"]) == (500, "no-store")
        assert answer.headers["content-security-policy"] == POLICY.decode()
        assert "Something went wrong on our side" in answer.text


async def test_behind_tls_the_cookie_is_bound_to_the_host(postgres_url, valkey, redis):
    async with shop(postgres_url, valkey) as (browser, *_):
        headers = {"X-Forwarded-Proto": "https", "Origin": "https://shop.example", "Sec-Fetch-Site": "same-origin"}
        headers["Cookie"] = "__Host-flashsale=" + browser.cookies["flashsale"]
        cookie, name = (await browser.post("/session", headers=headers)).headers.get_list("set-cookie")
        assert cookie.startswith("__Host-flashsale=")
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict; Secure")
        assert re.fullmatch("__Host-flashsale-login=[0-9a-f]{16}; Path=/; SameSite=Strict; Secure", name)
        headers["Cookie"] = "flashsale=" + browser.cookies["flashsale"]
        assert (await browser.post("/session", headers=headers)).json() == {"token": None}
