"""The pages behind the shipped nginx, with TLS, in a real browser."""

import asyncio
import tempfile
from pathlib import Path

import httpx
import pytest

from tests.browser.edge import edge
from tests.support.shipped_nginx import BINARIES

pytestmark = pytest.mark.skipif(not BINARIES, reason="no nginx; on Debian: apt-get install nginx")

STREAMS = 12
HTTP_1_STREAMS = 6
"""Connections that a browser opens to a host."""

OPEN = """
async ([id, count]) => {
  const opened = Array.from({ length: count }, () => new Promise((done) => {
    const source = new EventSource(`/sse/stock/${id}`);
    source.onmessage = () => done(1);
    setTimeout(() => done(0), 4000);
  }));
  return (await Promise.all(opened)).reduce((one, two) => one + two);
}
"""


@pytest.fixture
async def secure(stack):
    with tempfile.TemporaryDirectory() as folder, edge(Path(folder), stack.base_url) as url:
        yield url


async def open_streams(visit, product_id, url):
    """Open streams in one page; returns how many have shown the stock, and the protocol of the page."""
    one = await visit(base_url=url, ignore_https_errors=True)
    one.allow(404, 503)
    await one.page.goto(f"/p/{product_id}")
    protocol = await one.page.evaluate("() => performance.getEntriesByType('navigation')[0].nextHopProtocol")
    return await one.page.evaluate(OPEN, [product_id, STREAMS]), protocol


async def test_a_browser_holds_more_than_six_streams_over_http_2(visit, shop, secure):
    assert await open_streams(visit, await shop.product(), secure) == (STREAMS, "h2")


async def test_over_http_1_a_browser_holds_six(visit, shop, stack):
    """The control."""
    count, protocol = await open_streams(visit, await shop.product(), stack.base_url)
    assert protocol == "http/1.1"
    assert count <= HTTP_1_STREAMS


async def test_pages_are_small_secure_and_open_while_no_process_of_the_api_answers(visit, shop, secure):
    product_id = await shop.product()
    one = await visit(base_url=secure, ignore_https_errors=True)
    answers = {}
    one.page.on("response", lambda answer: answers.setdefault(answer.url.removeprefix(secure), answer))
    await one.page.goto(f"/p/{product_id}")
    await one.check("product behind nginx")
    page = answers[f"/p/{product_id}"]
    headers = await page.all_headers()
    assert headers["content-encoding"] == "gzip"
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    for path, answer in answers.items():
        if path.startswith("/assets/"):
            assert (await answer.all_headers())["content-encoding"] == "gzip", path
    await shop.kill_api()
    try:
        again = await visit(base_url=secure, ignore_https_errors=True)
        again.allow(503)
        shown = await again.page.goto(f"/p/{product_id}")
        assert shown.status == 200
    finally:
        await shop.start_api()


async def test_a_change_of_an_administrator_keeps_its_condition_behind_nginx(shop, secure):
    """A tag that compression made weak would never match."""
    product_id = await shop.product(name="N" * 200)
    tag = await shop.tag(product_id, secure)
    assert tag.startswith('"')
    await shop.pause(product_id, secure, tag=tag)


async def test_a_crowd_that_opens_a_page_costs_the_api_one_request(shop, secure):
    product_id = await shop.product()
    before = await shop.requests_of_pages()
    async with httpx.AsyncClient(base_url=secure, verify=False) as client:  # noqa: S501 - made by the test
        answers = await asyncio.gather(*(client.get(f"/p/{product_id}") for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 100
    assert await shop.requests_of_pages() - before <= 2
