"""A purchase while parts of the shop die: the page says so, and the end is one order that was charged once."""

import asyncio
import re

import pytest
from playwright.async_api import expect

from tests.browser.checks import CUT
from tests.browser.storefront import Storefront

BUY = "**/api/order/buy-flash"


@pytest.fixture
async def buying(visit, shop):
    """A window of a buyer who is about to buy, and may find the shop away."""
    front, buyer = Storefront(await visit()), await shop.buyer()
    front.visit.allow(503, *CUT)
    await front.sign_in(buyer)
    await front.open(await shop.product())
    return front, buyer


async def one_order(front, shop, buyer):
    """See that there is one order, that it was charged once, and that the audit holds."""
    await charged_once(front, shop, buyer)
    await shop.audit()


async def charged_once(front, shop, buyer):
    await front.shows("confirmed")
    order_id = await front.order_id()
    assert [(one["orderId"], one["status"]) for one in await shop.orders(buyer)] == [(order_id, "confirmed")]
    assert (await shop.captured(order_id))[0] == 1


@pytest.mark.parametrize("accepted", [False, True], ids=["before it has the buy", "after it has accepted"])
async def test_every_process_of_the_api_dies_in_the_middle_of_a_buy(buying, shop, accepted):
    front, buyer = buying
    keys = []

    async def die_at_first(route):
        keys.append(await route.request.header_value("idempotency-key"))
        if len(keys) > 1:
            await route.continue_()
            return
        if accepted:
            await route.fetch()
        await shop.kill_api()
        await route.abort("connectionreset")

    await front.page.route(BUY, die_at_first)
    await front.buy.click()
    try:
        await front.shows("unreachable")
        await front.check(
            f"unreachable, {'accepted' if accepted else 'not accepted'}",
            picture=None if accepted else "storefront-unreachable",
        )
    finally:
        await shop.start_api()
    await one_order(front, shop, buyer)
    assert len(keys) > 1
    assert len(set(keys)) == 1


async def test_the_api_dies_while_the_order_is_paid(buying, shop):
    front, buyer = buying
    await shop.provider(latencyMeanS=4)
    try:
        await front.buy.click()
        await front.order_id()
        await front.page.wait_for_selector("main[data-state=accepted], main[data-state=paying]")
        await front.check("paying", picture="storefront-paying")
        await shop.kill_api()
        await shop.start_api()
        await one_order(front, shop, buyer)
    finally:
        await shop.provider(latencyMeanS=0.05)


async def test_a_page_that_is_loaded_again_in_the_middle_of_a_buy_buys_once(buying, shop):
    front, buyer = buying
    held, keys = asyncio.Event(), []

    async def hold(route):
        keys.append(await route.request.header_value("idempotency-key"))
        if len(keys) == 1:
            await route.fetch()
            held.set()
        else:
            await route.continue_()

    await front.page.route(BUY, hold)
    await front.buy.click(no_wait_after=True)
    await held.wait()
    await front.shows("asking")
    await front.check("asking", picture="storefront-asking")
    await expect(front.buy).to_be_disabled()
    await front.page.reload()
    # The script goes on by itself.
    await one_order(front, shop, buyer)
    assert len(set(keys)) == 1


@pytest.mark.parametrize("status", [403, 404])
async def test_only_an_answer_to_the_buy_decides_about_it(buying, shop, status):
    """The first request is accepted and its answer is lost; then an answer of another path refuses."""
    front, buyer = buying
    front.visit.allow(401, status)
    keys, refusals = [], []

    async def lose_the_first(route):
        keys.append(await route.request.header_value("idempotency-key"))
        if len(keys) == 1:
            await route.fetch()
            # The page asks for a new token.
            await route.fulfill(status=401, json={"code": "unauthenticated"})
        else:
            await route.continue_()

    async def refuse_once(route):
        if keys and not refusals:
            refusals.append(status)
            await route.fulfill(status=status, json={"code": "no_such_path"})
        else:
            await route.continue_()

    await front.page.route(BUY, lose_the_first)
    await front.page.route("**/session", refuse_once)
    await front.buy.click()
    await one_order(front, shop, buyer)
    assert refusals == [status]
    assert len(keys) > 1
    assert len(set(keys)) == 1


ROBOT = {"content_type": "text/html", "body": "<h1>Are you a robot?</h1>"}
OTHER_CELL = {"content_type": "application/problem+json", "body": '{"code": "other_cell", "cell": 0}'}


@pytest.mark.parametrize(
    ("status", "answer"), [*((status, ROBOT) for status in (200, 202, 403, 404, 409)), (421, OTHER_CELL)]
)
async def test_a_machine_between_shop_and_page_decides_nothing(buying, shop, status, answer):
    """The shop accepts, its answer is lost, and a filter on the way answers the repetition with a page of its own.

    Or a router sends the repetition to another cell, which knows nothing of the first request.
    """
    front, buyer = buying
    front.visit.allow(status)
    keys = []

    async def filtered(route):
        keys.append(await route.request.header_value("idempotency-key"))
        if len(keys) == 1:
            await route.fetch()
            await route.abort("connectionreset")
        elif len(keys) == 2:
            await route.fulfill(status=status, **answer)
        else:
            await route.continue_()

    await front.page.route(BUY, filtered)
    await front.buy.click()
    await one_order(front, shop, buyer)
    assert len(set(keys)) == 1


async def test_a_product_that_moves_takes_no_page_along_whose_buy_is_not_decided(buying, shop):
    """The shop accepts, its answer is lost, and the product moves to another cell before the buyer is back."""
    front, buyer = buying
    product_id = int(front.page.url.rpartition("/")[2])
    away = True

    async def lose(route):
        if not away:
            await route.continue_()
            return
        await route.fetch()
        await route.abort("connectionreset")

    await front.page.route(BUY, lose)
    await front.buy.click()
    await front.shows("unreachable")
    await shop.ends_as(buyer, "confirmed")
    await shop.manage("POST", f"/products/{product_id}/pause")
    await shop.moved(product_id)
    # The page knows: the old product keeps the unit that was sold.
    await expect(front.page.locator("#units")).to_have_text("1")
    await front.shows("unreachable")
    away = False
    await one_order(front, shop, buyer)


async def test_a_page_that_gets_another_answer_than_the_shops_says_so(buying, shop):
    front, _ = buying
    front.visit.allow("net::ERR_FAILED")
    await front.page.route("**/sse/**", lambda route: route.abort())
    robot = {"status": 200, "content_type": "text/html", "body": "<h1>Are you a robot?</h1>"}
    await front.page.route("**/api/products/*", lambda route: route.fulfill(**robot))
    await front.page.reload()
    await front.shows("unreachable")
    await front.page.unroute("**/api/products/*")
    await front.shows("open")


async def keep_request(front, product_id, *, account):
    """Leave a request in the browser, as a page leaves it that was closed before the answer."""
    await front.page.evaluate(
        """([id, account]) => localStorage.setItem(`asked ${id}`,
          JSON.stringify({ key: "a-key-of-before", price: "999.99", at: Date.now(), sent: true, account }))""",
        [product_id, account],
    )


async def test_a_request_of_one_account_is_never_sent_for_another(visit, shop):
    front, buyer = Storefront(await visit()), await shop.buyer()
    product_id = await shop.product()
    await front.sign_in(buyer)
    await keep_request(front, product_id, account="0123456789abcdef")
    await front.open(product_id)
    await expect(front.page.locator("#state")).to_contain_text("of another account")
    assert await front.page.evaluate("(id) => localStorage.getItem(`asked ${id}`)", product_id) is None
    assert await shop.orders(buyer) == []
    await front.buy.click()
    await one_order(front, shop, buyer)


async def test_a_request_that_waited_for_hours_for_the_sign_in_waits_for_a_press(visit, shop):
    front, buyer = Storefront(await visit()), await shop.buyer()
    product_id = await shop.product()
    await front.open(product_id)
    await front.buy.click()
    await expect(front.page).to_have_url(re.compile("/sign-in"))
    await front.page.evaluate(
        """(name) => {
          const kept = JSON.parse(sessionStorage.getItem(name));
          sessionStorage.setItem(name, JSON.stringify({ ...kept, at: kept.at - 7200_000 }));
        }""",
        f"asked {product_id}",
    )
    async with front.page.expect_response("**/session"):
        await front.give(buyer)
    await front.shows("open")
    await expect(front.buy).to_be_enabled()
    assert await shop.orders(buyer) == []
    await front.buy.click()
    await one_order(front, shop, buyer)


async def test_a_buyer_who_reloads_the_page_of_the_order_finds_it(buying, shop):
    front, buyer = buying
    await front.buy.click()
    order_id = await front.order_id()
    await front.page.reload()
    assert await front.order_id() == order_id
    await one_order(front, shop, buyer)


async def test_the_gate_dies_and_comes_back_during_the_sale(buying, shop):
    front, buyer = buying
    await shop.stack.valkey.kill()
    try:
        await front.buy.click()
        await charged_once(front, shop, buyer)
    finally:
        await shop.stack.valkey.start()
    await shop.gate_loaded()
    await shop.audit()


async def test_a_stream_that_is_lost_is_said_and_found_again(buying, shop):
    """What the page shows may be old: it says so until it has a stream again, and then it shows the present stock."""
    front, _ = buying
    (product_id,) = [int(part) for part in front.page.url.split("/") if part.isdigit()]
    await shop.kill_api()
    try:
        await front.shows("unreachable")
    finally:
        await shop.start_api()
    await shop.buy(product_id, await shop.buyer())
    await front.shows("open")
    await expect(front.stock).to_have_text("9")


async def test_a_page_that_meets_a_process_of_the_release_before_follows_its_stock(visit, shop):
    """Such a process refuses a stream with details."""
    front, product_id = Storefront(await visit()), await shop.product()
    front.visit.allow(400)
    await front.page.route("**/sse/stock/*details=true", lambda route: route.fulfill(status=400))
    async with front.page.expect_event("response", lambda one: one.url.endswith(f"/sse/stock/{product_id}")):
        await front.open(product_id)
    await shop.buy(product_id, await shop.buyer())
    await expect(front.stock).to_have_text("9")
