"""A buyer in a browser: each state of a sale and of an order, and the ways to buy."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from playwright.async_api import expect

from flashsale.domain.money import Money
from flashsale.pages.storefront.order_pages import STRIPE_JS, WITH_STRIPE
from flashsale.pages.storefront.shop import TEMPLATES
from flashsale.pages.storefront.texts import LANGUAGES, Texts
from flashsale.pages.templates import environment
from tests.browser.checks import tab_to
from tests.browser.shop import later
from tests.browser.storefront import PATIENCE_MS, Storefront, without


@pytest.fixture
async def front(visit):
    """A window without a session."""
    return Storefront(await visit())


@pytest.fixture
async def signed_in(front, shop):
    """A window of a buyer, and the buyer."""
    buyer = await shop.buyer()
    await front.sign_in(buyer)
    return front, buyer


async def bought(front, shop, buyer, *, status="confirmed", charges=1):
    """See that the order on the page is the buyer's only one, charged as often as this, and that the audit holds."""
    order_id = await front.order_id()
    orders = await shop.orders(buyer)
    assert [(one["orderId"], one["status"]) for one in orders] == [(order_id, status)]
    assert (await shop.captured(order_id))[0] == charges
    await shop.audit()
    return order_id


async def test_a_whole_purchase(window, front, shop):
    product_id = await shop.product(stock=3, refundableByBuyer=True)
    await front.page.goto("/")
    await front.check("products", picture="storefront-products")
    await front.open(product_id)
    await expect(front.stock).to_have_text("3")
    await front.check("open", picture="storefront-open", dark_picture="storefront-open-dark")
    await front.buy.click()
    # Without a session the press is kept while the buyer signs in.
    await expect(front.page).to_have_url(re.compile("/sign-in"))
    await front.check("sign in", picture="storefront-sign-in")
    buyer = await shop.buyer()
    await front.give(buyer)
    await front.shows("confirmed")
    await front.check("confirmed", picture="storefront-confirmed", dark_picture="storefront-confirmed-dark")
    await bought(front, shop, buyer)
    await front.page.goto("/orders")
    await expect(front.page.get_by_text("Aurora Phone").first).to_be_visible()
    await front.check("my orders", picture="storefront-orders")


async def test_a_purchase_by_keyboard_alone(visit, shop):
    front, buyer = Storefront(await visit()), await shop.buyer()
    product_id = await shop.product(paymentMode="by_buyer")
    page = front.page
    await page.goto("/sign-in")
    await tab_to(page, page.get_by_label("E-mail"))
    await page.keyboard.type(buyer.email)
    await tab_to(page, page.get_by_label("Password", exact=False).first)
    await page.keyboard.type(buyer.password)
    await page.keyboard.press("Enter")
    await page.wait_for_url(lambda url: "/sign-in" not in url)
    await page.goto("/")
    await tab_to(page, page.locator(f'a[href*="/p/{product_id}"]').first)
    await page.keyboard.press("Enter")
    await front.shows("open")
    await tab_to(page, front.buy)
    await page.keyboard.press("Space")
    await front.shows("pay")
    await tab_to(page, page.get_by_role("button", name="Pay"))
    await page.keyboard.press("Enter")
    await front.shows("confirmed")
    await bought(front, shop, buyer)


async def test_what_a_screen_reader_hears_is_thresholds_and_states_and_not_each_unit(visit, shop):
    """Live regions are written when something is decided, not with each unit that is sold."""
    front = Storefront(await visit())
    product_id = await shop.product(stock=100)
    await front.open(product_id)
    await front.page.evaluate(
        """() => {
          window.__said = [];
          const watch = new MutationObserver(() => window.__said.push(1));
          for (const one of document.querySelectorAll('[aria-live], [role=status], [role=alert]'))
            watch.observe(one, { childList: true, characterData: true, subtree: true });
        }"""
    )
    buyers = [await shop.buyer() for _ in range(10)]
    for buyer in buyers:
        await shop.buy(product_id, buyer)
    await expect(front.stock).to_have_text("90", timeout=PATIENCE_MS)
    assert len(await front.page.evaluate("() => window.__said")) <= 1
    await shop.audit()


OWN_STORAGE = """
(() => {
  const own = new Map();
  Storage.prototype.getItem = (name) => own.get(name) ?? null;
  Storage.prototype.setItem = (name, value) => { own.set(name, value); };
  Storage.prototype.removeItem = (name) => { own.delete(name); };
})()
"""
"""A browser may show one tab late what another one keeps: this tab does not see it at all."""

KEY_OF_THE_LOGIN = "const keyOf = (visit) => `${visit}-${product}-${turn()}`;"


@pytest.mark.parametrize("guarded", [True, False], ids=["one order", "without the key of the login: two"])
async def test_two_tabs_make_one_order(visit, shop, guarded):
    """Both requests are under way before the shop has seen one of them, and neither tab knows of the other's."""
    first, buyer = Storefront(await visit()), await shop.buyer()
    context = first.page.context
    if not guarded:
        await without(context, KEY_OF_THE_LOGIN, "const keyOf = () => crypto.randomUUID();")
    product_id = await shop.product()
    await first.sign_in(buyer)
    second = Storefront(await visit(context=context))
    await second.page.add_init_script(OWN_STORAGE)
    keys, both = [], asyncio.Event()

    async def hold(route):
        keys.append(await route.request.header_value("idempotency-key"))
        if len(keys) == 2:
            both.set()
        await both.wait()
        await route.continue_()

    await context.route("**/api/order/buy-flash", hold)
    for tab in (first, second):
        await tab.open(product_id)
    for tab in (first, second):
        await tab.buy.click(no_wait_after=True)
    for tab in (first, second):
        await tab.shows("confirmed")
    made = {await tab.order_id() for tab in (first, second)}
    assert made == {one["orderId"] for one in await shop.orders(buyer)}
    assert (len(made), len(set(keys))) == ((1, 1) if guarded else (2, 2))
    await shop.audit()


LOGIN_OF_NOW = " && token.visit === visitNow()"


@pytest.mark.parametrize("guarded", [True, False], ids=["the new account", "without the look at the login: the old"])
async def test_a_tab_buys_for_the_account_that_signed_in_last_in_whichever_tab(visit, shop, guarded):
    first, old, new = Storefront(await visit()), await shop.buyer(), await shop.buyer()
    context = first.page.context
    if not guarded:
        await without(context, LOGIN_OF_NOW, "")
    product_id = await shop.product()
    await first.sign_in(old)
    async with first.page.expect_response("**/session"):
        await first.open(product_id)
    await Storefront(await visit(context=context)).sign_in(new)
    async with first.page.expect_response("**/api/order/buy-flash") as answered:
        await first.buy.click()
    assert (await answered.value).status == 202
    counts = [len(await shop.orders(one)) for one in (old, new)]
    assert counts == ([0, 1] if guarded else [1, 0])


async def test_a_tab_buys_nothing_after_the_sign_out_in_another_one(visit, shop):
    first, buyer = Storefront(await visit()), await shop.buyer()
    product_id = await shop.product()
    await first.sign_in(buyer)
    async with first.page.expect_response("**/session"):
        await first.open(product_id)
    second = await visit(context=first.page.context)
    await second.page.goto("/orders")
    await second.page.get_by_role("button", name="Sign out", exact=True).click()
    await expect(second.page).not_to_have_url(re.compile("/orders"))
    await first.buy.click()
    await expect(first.page).to_have_url(re.compile("/sign-in"))
    assert await shop.orders(buyer) == []


async def test_a_buyer_pays_in_time(window, signed_in, shop):
    front, buyer = signed_in
    product_id = await shop.product(paymentMode="by_buyer", paymentWindowS=600)
    await front.open(product_id)
    await front.buy.click()
    await front.shows("pay")
    await expect(front.page.get_by_role("timer")).to_contain_text(":")
    await front.check("pay", picture="storefront-pay")
    await front.page.get_by_role("button", name="Pay").click()
    await front.shows("confirmed")
    await front.check("confirmed after paying")
    await bought(front, shop, buyer)


async def test_an_order_that_nobody_pays_expires_and_is_not_charged(signed_in, shop):
    front, buyer = signed_in
    product_id = await shop.product(paymentMode="by_buyer", paymentWindowS=2, stock=1)
    await front.open(product_id)
    await front.buy.click()
    await front.shows("expired")
    await front.check("expired", picture="storefront-expired")
    await bought(front, shop, buyer, status="expired", charges=0)
    assert await shop.stock(product_id) == 1


async def test_a_declined_buyer_tries_again(signed_in, shop):
    front, buyer = signed_in
    product_id = await shop.product(stock=1)
    await shop.provider(declineRate=1)
    try:
        await front.open(product_id)
        await front.buy.click()
        await front.shows("declined")
        await front.check("declined", picture="storefront-declined")
    finally:
        await shop.provider(declineRate=0)
    await front.page.get_by_role("link", name="Try again").click()
    await front.shows("open")
    await front.buy.click()
    await front.shows("confirmed")
    orders = await shop.orders(buyer)
    assert sorted(one["status"] for one in orders) == ["confirmed", "payment_failed"]
    assert sum([(await shop.captured(one["orderId"]))[0] for one in orders]) == 1
    await shop.audit()


async def test_the_last_unit_goes_while_a_buyer_watches(signed_in, shop):
    front, buyer = signed_in
    product_id = await shop.product(stock=1)
    await front.open(product_id)
    await expect(front.stock).to_have_text("1")
    await shop.buy(product_id, await shop.buyer())
    await front.shows("sold_out")
    await front.check("sold out", picture="storefront-sold-out")
    assert await shop.orders(buyer) == []
    await shop.audit()


async def test_a_buyer_who_presses_too_late_is_told_that_all_are_sold(signed_in, shop):
    front, buyer = signed_in
    product_id = await shop.product(stock=1)
    await front.page.route("**/sse/stock/**", lambda route: route.abort())
    front.visit.allow(409, "net::ERR_FAILED")
    await front.open(product_id)
    await shop.buy(product_id, await shop.buyer())
    if await front.buy.is_enabled():
        await front.buy.click()
    await front.shows("sold_out")
    assert await shop.orders(buyer) == []


async def test_each_change_of_a_product_reaches_an_open_page_by_its_stream(signed_in, shop):
    front, _ = signed_in
    front.visit.allow("net::ERR_FAILED")
    product_id = await shop.product(limitPerBuyer=2)
    await front.open(product_id)
    # Whatever the page learns from here on, it has not asked for.
    await front.page.route("**/api/products/*", lambda route: route.abort())
    page, path = front.page, f"/products/{product_id}"
    await expect(page.get_by_text("At most 2 for each buyer")).to_be_visible()
    change = {"name": "Aurora Two", "price": "899.99", "limitPerBuyer": 3, "endsAt": later(86_400)}
    await shop.manage("PATCH", path, change)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Aurora Two", timeout=PATIENCE_MS)
    await expect(page).to_have_title(re.compile("^Aurora Two · "))
    await expect(page.locator("#price")).to_contain_text("899.99")
    await expect(page.get_by_text("At most 3 for each buyer")).to_be_visible()
    await expect(page.get_by_text("On sale until")).to_be_visible()
    await shop.manage("POST", "/stock", {"productId": product_id, "stock": 25})
    await expect(page.locator("#units")).to_have_text("25", timeout=PATIENCE_MS)
    await expect(front.stock).to_have_text("25", timeout=PATIENCE_MS)
    await shop.manage("PATCH", path, {"startsAt": later(7200), "endsAt": None})
    await front.shows("before")
    await shop.manage("PATCH", path, {"startsAt": None})
    await front.shows("open")
    await shop.manage("POST", f"{path}/pause")
    await front.shows("paused")
    await shop.manage("POST", f"{path}/archive")
    await front.shows("ended")
    await expect(front.buy).to_be_disabled()


async def test_money_that_staff_give_back_reaches_the_open_page_of_the_order(signed_in, shop):
    front, _ = signed_in
    await front.open(await shop.product())
    await front.buy.click()
    await front.shows("confirmed")
    refund = f"/orders/{await front.order_id()}/refunds"
    await shop.manage("POST", refund, {"amount": "100.00", "reason": "a scratch"})
    await expect(front.page.locator("#details")).to_contain_text("100.00", timeout=PATIENCE_MS)
    await front.shows("confirmed")
    await shop.manage("POST", refund, {"reason": "it broke"})
    await front.shows("refunded")
    await front.check("refunded while the page was open")


async def test_a_pause_and_its_end_reach_the_page(signed_in, shop):
    front, _ = signed_in
    product_id = await shop.product()
    await front.open(product_id)
    await shop.manage("POST", f"/products/{product_id}/pause")
    await front.shows("paused")
    await front.check("paused", picture="storefront-paused")
    await expect(front.buy).to_be_disabled()
    await shop.manage("POST", f"/products/{product_id}/resume")
    await front.shows("open")
    await expect(front.buy).to_be_enabled()


async def test_before_the_start_the_page_counts_down(visit, shop):
    front = Storefront(await visit())
    await front.open(await shop.product(startsAt=later(5400)), "before")
    await expect(front.page.get_by_role("timer")).to_contain_text("1:")
    await front.check("before the start", picture="storefront-before")


@pytest.mark.parametrize("wrong", [timedelta(minutes=-10), timedelta(0), timedelta(minutes=10)], ids=str)
async def test_the_sale_begins_by_the_shops_clock_whatever_the_device_says(visit, shop, wrong):
    front = Storefront(await visit())
    await front.sign_in(await shop.buyer())
    product_id = await shop.product(startsAt=later(15))
    await front.page.clock.install(time=datetime.now(UTC) + wrong)
    await front.open(product_id, "before")
    said = await front.page.get_by_role("timer").inner_text()
    minutes, seconds = map(int, said.strip().split(":")[-2:])
    assert (minutes, seconds) <= (0, 15), said
    await expect(front.buy).to_be_disabled()
    await front.shows("open")
    await expect(front.buy).to_be_enabled()
    await front.buy.click()
    await front.shows("confirmed")


SLEEPY = """
(() => {
  const now = performance.now.bind(performance);
  window.__slept = 0;
  performance.now = () => now() - window.__slept;
})()
"""
"""A device whose monotonic clock stands still while it sleeps, and which shows no change of the page's visibility."""


async def test_a_device_that_slept_shows_the_shops_time_again(visit, shop):
    front = Storefront(await visit())
    await front.page.add_init_script(SLEEPY)
    product_id = await shop.product(startsAt=later(8))
    await front.open(product_id, "before")
    await front.page.evaluate("() => { window.__slept = 3_600_000; }")
    await front.shows("open")
    buyer = await shop.buyer()
    by_buyer = await shop.product(paymentMode="by_buyer", paymentWindowS=600)
    await front.sign_in(buyer)
    await front.open(by_buyer)
    await front.buy.click()
    await front.shows("pay")
    await front.page.evaluate("() => { window.__slept = 3_600_000; }")
    await expect(front.page.get_by_role("timer")).to_have_text(re.compile("^0?9:|^10:00$"), timeout=PATIENCE_MS)


async def test_another_account_is_not_told_that_it_has_ordered(visit, shop):
    front, first, second = Storefront(await visit()), await shop.buyer(), await shop.buyer()
    product_id = await shop.product()
    await front.sign_in(first)
    await front.open(product_id)
    await front.buy.click()
    await front.shows("confirmed")
    await front.open(product_id)
    await expect(front.page.locator("#mine")).to_be_visible()
    await expect(front.buy).to_have_text("Buy another one")
    # The session ended, or somebody signs in without signing the other one out.
    await front.sign_in(second)
    await front.open(product_id)
    await expect(front.page.locator("#mine")).to_be_hidden()
    await expect(front.buy).to_have_text("Buy now")
    await expect(front.buy).to_be_enabled()
    await front.buy.click()
    await front.shows("confirmed")
    assert [len(await shop.orders(one)) for one in (first, second)] == [1, 1]


async def test_staff_are_told_that_they_cannot_buy(visit, shop):
    front = Storefront(await visit())
    await front.page.goto("/sign-in")
    await front.page.get_by_label("E-mail").fill(shop.operator[0])
    await front.page.get_by_label("Password").fill(shop.operator[1])
    await front.page.get_by_role("button", name="Sign in").click()
    await expect(front.page).not_to_have_url(re.compile("/sign-in"))
    await front.open(await shop.product())
    await front.buy.click()
    await expect(front.page.locator("#state")).to_contain_text("signed in as staff", timeout=PATIENCE_MS)
    await front.check("staff cannot buy")


async def test_a_page_whose_scripts_do_not_come_leads_to_the_form(window, signed_in, shop):
    front, _ = signed_in
    front.visit.allow("net::ERR_FAILED")
    await front.page.route("**/assets/**/*.js", lambda route: route.abort())
    await front.page.goto(f"/p/{await shop.product()}")
    await front.check("without its scripts")
    await front.page.get_by_role("link", name="Buy with a form").click()
    await expect(front.page.get_by_role("button", name="Buy now")).to_be_enabled()


async def test_a_page_of_the_release_before_lives_with_a_text_that_it_lacks(visit, shop):
    """A cache keeps pages over a roll, and their scripts are the present ones."""
    front, product_id = Storefront(await visit()), await shop.product()

    async def older(route):
        answer = await route.fetch()
        body = (await answer.text()).replace('"js.loading"', '"js.of_before"')
        await route.fulfill(response=answer, body=body)

    await front.page.route(f"**/p/{product_id}", older)
    await front.open(product_id)
    await expect(front.buy).to_be_enabled()


async def test_a_sale_ends_while_a_buyer_watches(signed_in, shop):
    front, _ = signed_in
    product_id = await shop.product(endsAt=later(12))
    await front.open(product_id)
    await front.shows("ended")
    await front.check("ended", picture="storefront-ended")


async def test_the_pages_speak_german(visit, shop):
    front = Storefront(await visit(window="phone", locale="de-DE"))
    product_id = await shop.product()
    for path in ("/", f"/p/{product_id}", "/sign-in"):
        await front.page.goto(path)
        await expect(front.page.locator("html")).to_have_attribute("lang", "de")
        await front.check(f"German {path.rstrip('0123456789')}", picture="storefront-german" if "/p/" in path else None)


async def test_a_long_name_fits(window, front, shop):
    product_id = await shop.product(name="N" * 200, price="10000000000.00", stock=1_000_000)
    await front.open(product_id)
    await front.check("a long name")
    await front.page.goto("/")
    await front.check("a long name in the list")


async def test_the_form_that_buys_without_a_script(window, signed_in, shop):
    """axe needs a script, so it judges the form in a browser that has them."""
    front, _ = signed_in
    await front.page.goto(f"/p/{await shop.product()}/buy")
    await front.check("form", picture="storefront-form")


async def test_a_purchase_without_javascript(visit, shop):
    front, buyer = Storefront(await visit(java_script_enabled=False)), await shop.buyer()
    product_id = await shop.product()
    page = front.page
    await front.sign_in(buyer)
    await page.goto(f"/p/{product_id}")
    await page.get_by_role("link", name="Buy", exact=False).first.click()
    await page.wait_for_url("**/buy?key=*")
    await page.get_by_role("button", name="Buy", exact=False).first.click()
    await front.order_id()
    # The page loads itself again.
    await expect(page.locator("main")).to_have_attribute("data-state", "confirmed", timeout=PATIENCE_MS)
    order_id = await bought(front, shop, buyer)
    # A buyer who got no answer goes back to the form, and presses again.
    await page.go_back()
    await page.get_by_role("button", name="Buy", exact=False).first.click()
    assert await front.order_id() == order_id
    await bought(front, shop, buyer)


def payment_page(order):
    """Render the page of a payment as an API process with Stripe does; this stack has the simulator."""
    templates = environment(TEMPLATES)
    templates.globals.update(asset=lambda name: f"/assets/of-the-test/{name}", shop="flashsale", languages=LANGUAGES)
    return templates.get_template("pay.html").render(
        t=Texts("en"), path="/", kept="", left="", page_url=None, now=datetime.now(UTC), stripe_js=STRIPE_JS,
        client_secret="pi_1_secret_2", publishable_key="pk_test_1",
        order=SimpleNamespace(
            order_id=order["orderId"], product_name="A phone", total_price=Money(minor=99_999, currency="USD"),
            pay_by=datetime.fromisoformat(order["payBy"]),
        ),
    )  # fmt: skip


STRIPE = """
window.Stripe = () => ({
  elements: () => ({ create: () => ({ on: (name, act) => { if (name === "ready") act(); }, mount: () => {} }) }),
});
"""


async def test_the_page_with_the_providers_element_counts_down_and_leaves_when_the_time_is_over(signed_in, shop):
    front, buyer = signed_in
    page = front.page
    product_id = await shop.product(paymentMode="by_buyer", paymentWindowS=6)
    await front.open(product_id)
    await front.buy.click()
    await front.shows("pay")
    order_id = await front.order_id()

    async def with_element(route):
        (order,) = await shop.orders(buyer)
        headers = {"content-security-policy": WITH_STRIPE.decode()}
        await route.fulfill(content_type="text/html", headers=headers, body=payment_page(order))

    await page.route(f"**/order/{order_id}/pay", with_element)
    await page.route(STRIPE_JS, lambda route: route.fulfill(content_type="text/javascript", body=STRIPE))
    # With Stripe the form leaves the page.
    await page.locator("form[data-kept]").first.evaluate("(form) => form.removeAttribute('data-kept')")
    await page.get_by_role("button", name="Pay").click()
    await expect(page.get_by_role("button", name="Pay now")).to_be_enabled()
    await expect(page.get_by_role("timer")).to_have_text(re.compile("00:0[0-6]"))
    await front.shows("expired")
    await bought(front, shop, buyer, status="expired", charges=0)
