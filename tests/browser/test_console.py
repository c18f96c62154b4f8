"""Staff in a browser: the night of a sale, an order's whole story, and a buyer who watches what they do."""

import csv
import io

import pytest
from playwright.async_api import expect

from tests.browser.checks import tab_to
from tests.browser.storefront import PATIENCE_MS, Storefront

CONSOLE_BYTES_MAX = 100_000
PAGES = {
    "sale": "/console",
    "products": "/console/products",
    "new-product": "/console/products/new",
    "orders": "/console/orders",
    "books": "/console/books",
    "trail": "/console/trail",
    "audit": "/console/audit",
    "staff": "/console/staff",
}


class Desk:
    """A window of the console."""

    def __init__(self, visit):
        self.visit = visit
        self.page = visit.page

    async def sign_in(self, email, password):
        await self.page.goto("/console")
        await self.page.get_by_label("E-mail").fill(email)
        await self.page.get_by_label("Password").fill(password)
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.page.get_by_role("heading", level=1)).to_have_text("Sale")

    async def press(self, name, *, confirm):
        """Press a button and answer the question."""
        await self.page.get_by_role("button", name=name, exact=True).click()
        await self.page.get_by_role("button", name=confirm).click()

    async def says(self, text):
        await expect(self.page.get_by_role("status").filter(has_text=text)).to_be_visible(timeout=PATIENCE_MS)


@pytest.fixture
async def desk(visit, shop):
    """A window of the administrator."""
    opened = Desk(await visit(weight_max=CONSOLE_BYTES_MAX))
    await opened.sign_in(*shop.operator)
    return opened


async def test_each_page_of_the_console(window, desk, shop):
    await shop.buy(await shop.product(), await shop.buyer())
    faults = []
    for name, path in PAGES.items():
        await desk.page.goto(path)
        dark = "console-sale-dark" if name == "sale" else None
        try:
            await desk.visit.check(f"console {name}", picture=f"console-{name}", dark_picture=dark)
        except AssertionError as fault:
            faults.append(str(fault))
    assert not faults, "\n".join(faults)


async def test_the_page_where_staff_sign_in(window, visit):
    opened = await visit(weight_max=CONSOLE_BYTES_MAX)
    await opened.page.goto("/console")
    await opened.check("console sign-in", picture="console-sign-in")


async def test_an_operator_pauses_and_restocks_while_a_buyer_watches(desk, visit, shop):
    product_id = await shop.product(name="Lumen Watch", stock=1)
    front, buyer = Storefront(await visit()), await shop.buyer()
    await front.sign_in(buyer)
    await front.open(product_id)
    page = desk.page
    await page.goto(f"/console/products/{product_id}")
    await desk.visit.check("console product", picture="console-product")
    await page.get_by_role("button", name="Pause", exact=True).click()
    await expect(page.get_by_role("button", name="Confirm pause")).to_be_visible()
    await desk.visit.check("console question", picture="console-question")
    await page.get_by_role("button", name="Confirm pause").click()
    await desk.says("paused")
    await front.shows("paused")
    await desk.press("Resume", confirm="Confirm resume")
    await front.shows("open")
    await shop.buy(product_id, await shop.buyer())
    await front.shows("sold_out")
    await page.get_by_role("button", name="Change stock").click()
    await page.get_by_label("Units to add").fill("+20")
    await page.get_by_role("button", name="Show the effect").click()
    await page.get_by_role("button", name="Confirm 20 units more").click()
    await front.shows("open")
    await expect(front.stock).to_have_text("20")
    await front.buy.click()
    await front.shows("confirmed")
    assert len(await shop.orders(buyer)) == 1
    await shop.audit()


async def test_staff_sell_refund_and_export_an_order_in_the_browser(visit, shop):
    """From an empty shop to a refunded, exported order, with nothing but the pages."""
    desk = Desk(await visit(weight_max=CONSOLE_BYTES_MAX))
    await desk.sign_in(*shop.operator)
    page = desk.page
    await page.goto("/console/products/new")
    await page.get_by_label("Name").fill("Vesper Lamp")
    await page.get_by_label("Price of a unit").fill("120.00")
    await page.get_by_label("Units", exact=True).fill("5")
    await page.get_by_role("button", name="Create product").click()
    await desk.says("")
    buyer = Storefront(await visit())
    account = await shop.buyer()
    await buyer.sign_in(account)
    await buyer.page.goto("/")
    await buyer.page.get_by_role("link", name="Vesper Lamp").click()
    await buyer.shows("open")
    await buyer.buy.click()
    await buyer.shows("confirmed")
    order_id = await buyer.order_id()

    await page.goto("/console/orders")
    await page.get_by_label("E-mail of the buyer").fill(account.email)
    await page.get_by_role("button", name="Search").click()
    await desk.visit.check("console found orders", picture="console-orders-found")
    await page.locator(f'a[href*="{order_id}"]').first.click()
    await expect(page.get_by_role("heading", name="Story")).to_be_visible()
    await desk.visit.check("console order", picture="console-order")
    await page.get_by_label("Reason").fill("It arrived broken")
    await page.get_by_role("button", name="Refund", exact=True).click()
    await shop.ends_as(account, "refunded")
    # Neither page is loaded again.
    await buyer.shows("refunded")
    await expect(page.locator("#now .state").first).to_have_text("refunded", timeout=PATIENCE_MS)
    await buyer.check("refunded", picture="storefront-refunded")

    await page.goto("/console/orders")
    await page.get_by_label("E-mail of the buyer").fill(account.email)
    await page.get_by_role("button", name="Search").click()
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="Export").click()
    text = (await (await downloading.value).path()).read_text()
    (row,) = csv.DictReader(io.StringIO(text))
    assert order_id in row.values()
    assert "refunded" in row.values()
    assert await shop.captured(order_id) == (1, 12_000)
    await shop.audit()


async def test_the_console_shows_what_others_do_and_keeps_what_is_being_typed(desk, shop):
    buyer, page = await shop.buyer(), desk.page
    product_id = await shop.product()
    order_id = await shop.buy(product_id, buyer)
    await shop.ends_as(buyer, "confirmed")
    await page.goto(f"/console/products/{product_id}")
    await shop.manage("PATCH", f"/products/{product_id}", {"name": "Perseid", "price": "899.99"})
    await expect(page.get_by_role("heading", level=1)).to_have_text("Perseid", timeout=PATIENCE_MS)
    await expect(page.locator("#terms")).to_contain_text("899.99")
    await shop.manage("POST", f"/products/{product_id}/pause")
    await expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=PATIENCE_MS)
    await page.goto("/console/products")
    row = page.get_by_role("row").filter(has_text="Perseid")
    await expect(row).to_contain_text("paused")
    await shop.manage("POST", f"/products/{product_id}/resume")
    await expect(row).to_contain_text("on sale", timeout=PATIENCE_MS)

    await page.goto(f"/console/orders/{order_id}")
    await page.get_by_label("Reason").fill("It arrived")
    refund = {"amount": "100.00", "reason": "by somebody else"}
    await shop.manage("POST", f"/orders/{order_id}/refunds", refund)
    late = page.locator("#late")
    await expect(late).to_contain_text("has changed since you began to type", timeout=PATIENCE_MS)
    await expect(page.get_by_label("Reason")).to_have_value("It arrived")
    await page.get_by_label("Reason").fill("")
    await expect(page.get_by_text("by somebody else").first).to_be_visible(timeout=PATIENCE_MS)
    await expect(late).to_be_hidden()
    await desk.visit.check("console order, renewed")


@pytest.mark.parametrize("part", ["name", "terms"])
async def test_the_console_says_that_it_keeps_a_part_whichever_part_of_the_answer_it_is(desk, shop, part):
    page, product_id = desk.page, await shop.product()
    await page.goto(f"/console/products/{product_id}")
    choice = "<select id='choice'><option>first</option><option selected>second</option></select>"
    await page.locator(f"#{part}").evaluate("(part, choice) => part.insertAdjacentHTML('beforeend', choice)", choice)
    await page.locator("#choice").select_option("first")
    await shop.manage("PATCH", f"/products/{product_id}", {"name": "Leonid"})
    late = page.locator("#late")
    await expect(late).to_contain_text("has changed since you began to type", timeout=PATIENCE_MS)
    await expect(page.locator("#choice")).to_have_value("first")
    await page.locator("#choice").select_option("second")
    await expect(page.locator("#choice")).to_have_count(0, timeout=PATIENCE_MS)
    await expect(late).to_be_hidden()


async def test_a_hidden_page_of_the_console_asks_for_nothing_but_what_somebody_presses(desk, shop):
    page, product_id = desk.page, await shop.product()
    await page.goto(f"/console/products/{product_id}")
    hide = "(hidden) => Object.defineProperty(document, 'hidden', { value: hidden, configurable: true })"
    stopped = """(id) => new Promise((resolve) => document.body.addEventListener("htmx:beforeRequest", (event) => {
      if (event.detail.elt.id === id) resolve(event.defaultPrevented);
    }))"""
    await page.evaluate(hide, True)
    assert await page.evaluate(stopped, "now")
    await page.get_by_role("button", name="Pause", exact=True).click()
    await expect(page.locator("#question")).to_be_visible(timeout=PATIENCE_MS)
    await page.evaluate(hide, False)
    assert not await page.evaluate(stopped, "now")


async def test_the_sale_page_is_kept_by_keyboard(desk, shop):
    product_id = await shop.product()
    page = desk.page
    await page.goto(f"/console/products/{product_id}")
    await tab_to(page, page.get_by_role("button", name="Pause", exact=True))
    await page.keyboard.press("Enter")
    confirm = page.get_by_role("button", name="Confirm pause")
    await expect(confirm).to_be_visible()
    await tab_to(page, confirm)
    await page.keyboard.press("Enter")
    await desk.says("paused")


async def test_a_table_that_was_moved_sideways_stays_there_and_keeps_the_focus(visit, shop):
    desk = Desk(await visit(window="phone", weight_max=CONSOLE_BYTES_MAX))
    await desk.sign_in(*shop.operator)
    await shop.product(name="A phone with a name that takes its room")
    page = desk.page
    await page.goto("/console")
    table = page.get_by_role("group", name="Products")
    await table.focus()
    await table.evaluate("(one) => { one.scrollLeft = 120; one.dataset.old = ''; }")
    await expect(table).not_to_have_attribute("data-old", "", timeout=PATIENCE_MS)
    assert await table.evaluate("(one) => [one.scrollLeft, one === document.activeElement]") == [120, True]


async def test_a_press_after_the_session_ended_says_that_nothing_was_changed(desk, shop):
    product_id, page = await shop.product(), desk.page
    await page.goto(f"/console/products/{product_id}/pause")
    await page.context.clear_cookies()
    desk.visit.allow(401)
    await page.get_by_role("button", name="Confirm pause").click()
    await expect(page.get_by_role("alert")).to_contain_text("nothing was changed")
    await desk.visit.check("console, the session has ended")
    await page.get_by_label("E-mail").fill(shop.operator[0])
    await page.get_by_label("Password").fill(shop.operator[1])
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("button", name="Confirm pause").click()
    await desk.says("paused")


async def test_the_console_works_without_javascript(visit, shop):
    opened = Desk(await visit(weight_max=CONSOLE_BYTES_MAX, java_script_enabled=False))
    await opened.sign_in(*shop.operator)
    product_id = await shop.product()
    await opened.page.goto(f"/console/products/{product_id}")
    await opened.press("Pause", confirm="Confirm pause")
    await opened.says("paused")


async def test_the_sale_page_stays_sound_while_it_is_renewed(desk, shop):
    """htmx takes a fragment every 2 s: no shift, no fault, and the focus stays."""
    product_id, buyer = await shop.product(name="Ticker"), await shop.buyer()
    page = desk.page
    await page.goto("/console")
    await shop.buy(product_id, buyer)
    async with page.expect_response(
        lambda answer: answer.url.endswith("/console") and answer.request.resource_type == "xhr"
    ):
        pass
    async with page.expect_response(
        lambda answer: answer.url.endswith("/console") and answer.request.resource_type == "xhr"
    ):
        pass
    await desk.visit.check("console sale, renewed")
