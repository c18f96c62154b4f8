"""The lists of products that everybody sees: bounded, and each product on one page."""

import importlib
import re

import httpx
import pytest

from flashsale import pages
from flashsale.bootstrap.api import open_services
from flashsale.http.app import build_app
from flashsale.http.streams.hub import LiveHub
from tests.conftest import add_product

MADE = 7
A_PAGE = 3


@pytest.fixture
async def shop(settings, monkeypatch):
    """A process whose pages are short, and the ids of its products, the newest first."""
    for module in ("http.routes.products", "pages.storefront.product_pages"):
        monkeypatch.setattr(importlib.import_module(f"flashsale.{module}"), "PAGE_MAX", A_PAGE)
    async with open_services(settings, name="test") as services:
        app = build_app(services, LiveHub(services), pages.routes)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            made = [(await add_product(services, name=f"Phone {n}")).product_id for n in range(MADE)]
            yield client, made[::-1]


async def ids_of(client, query=""):
    answer = await client.get(f"/api/products{query}")
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()]


async def test_the_public_list_is_bounded_and_each_product_is_on_one_page(shop):
    client, made = shop
    assert await ids_of(client) == made[:A_PAGE]
    for limit in (1, 2, A_PAGE):
        paged, query = [], f"?limit={limit}"
        while page := await ids_of(client, query):
            assert len(page) <= limit
            paged += page
            query = f"?limit={limit}&before={page[-1]}"
        assert paged == made
    for query in ("limit=0", f"limit={A_PAGE + 1}", "before=0", f"before={2**31}", "limit=" + "9" * 30):
        answer = await client.get(f"/api/products?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input"), query
        assert answer.json()["field"] == query.partition("=")[0]


async def test_the_page_of_the_list_is_bounded_and_leads_to_the_older_products(shop):
    client, made = shop
    shown, path, pages_read = [], "/", 0
    while path:
        text = (await client.get(path)).text
        found = [int(number) for number in re.findall(r'href="/p/(\d+)"', text)]
        assert len(found) <= A_PAGE
        shown += found
        pages_read += 1
        older = re.search(r'href="(/\?before=\d+)"', text)
        path = older[1] if older else ""
    assert (shown, pages_read) == (made, 3)
    for nonsense in ("x", "0", "-1", "9" * 40, "%ff", "1&before=2&a=%ff"):
        assert (await client.get(f"/?before={nonsense}")).status_code == 200, nonsense
