"""What the console shows, what its actions do to the database and the trail, and what it refuses."""

import re
import uuid
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest

from flashsale.domain.errors import Unavailable
from flashsale.domain.products import PaymentMode
from flashsale.domain.users import Role
from flashsale.http.recent import Recent, Sample
from flashsale.pages import VENDOR
from flashsale.pages.console import plots
from tests.conftest import add_product
from tests.support import manual
from tests.support.archiving import archiving, finished
from tests.support.charging import waiting_order
from tests.support.console import ADDRESS, SAME_ORIGIN, every_page_and_action, found, open_console, refusal
from tests.support.refunding import Provider, paid_order, refunding

PAGES, _ = every_page_and_action()
WEIGHT_MAX = 100_000


@pytest.fixture
async def console(settings, db):
    async with open_console(settings, db) as opened:
        yield opened


@pytest.fixture
async def browser(console):
    return await console.browser()


async def test_the_sale_is_on_one_screen(console, browser):
    product = await add_product(console.services, name="Phone <X>", allotment=1200)
    order_id, _ = await paid_order(console.services)
    await console.services.administer.change_allotment(product.product_id, 34)
    page = await browser.page("/console")
    assert "Phone &lt;X&gt;" in page
    assert "Phone <X>" not in page
    assert re.search(r'data-stock="1" data-version="\d+">1,234<', page)
    assert "No worker has reported for 30 s" in page, "what is wrong"
    assert "Start the order, payment and maintenance workers" in page, "and what to do"
    for what in ("Funnel", "Buys refused", "Payments", "Queues", "Money", "999.99 USD", "10 min ago", "confirmed"):
        assert what in page, what
    assert str(order_id) not in page
    assert 'hx-trigger="every 2s"' in page
    assert page.count("data-follow") == 2


async def test_every_page_has_the_header_fields_and_weighs_little(console, browser):
    product = await add_product(console.services)
    order_id, _ = await paid_order(console.services)
    ids = {"product_id": product.product_id, "order_id": order_id}
    paths = ["/console/sign-in", "/console/password", *(page.path for page in PAGES if not page.path.endswith(".csv"))]
    assert len(paths) > 12
    seen = set()
    for template in paths:
        path = re.sub(r"\{(\w+):\w+\}", lambda named: str(ids[named[1]]), template)
        answer = await browser.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert not re.search(r"<style|\sstyle=|<script(?![^>]* src=)|\son\w+=|javascript:", answer.text), path
        assert '<html lang="en">' in answer.text
        named = set(re.findall(r'(?:src|href)="(/assets/[^"]+)"', answer.text))
        loaded = [await console.client.get(one) for one in named]
        assert all(one.status_code == 200 and "immutable" in one.headers["cache-control"] for one in loaded)
        assert len(answer.content) + sum(len(one.content) for one in loaded) < WEIGHT_MAX, path
        ids_of = re.findall(r'\sid="([^"]+)"', answer.text)
        assert len(ids_of) == len(set(ids_of)), path
        assert set(re.findall(r'<label for="([^"]+)"', answer.text)) <= set(ids_of), path
        seen |= named
    assert len(seen) == 3
    assert (VENDOR / "htmx.min.js").stat().st_size < 60_000


async def test_a_page_that_is_not_there_is_none(browser):
    for path in ("/console/nothing", "/console/products/x", "/console/orders/1"):
        assert (await browser.get(path)).status_code == 404, path
    for path, says in (
        ("/console/products/99", "There is no product 99."),
        (f"/console/products/{'9' * 20}", "There is no product"),
        (f"/console/orders/{uuid.uuid4()}", "You have no order with this id."),
    ):
        answer = await browser.get(path)
        assert (answer.status_code, says in refusal(answer)) == (404, True), path


NEW = {"name": "Phone", "price": "999.99", "currency": "USD", "stock": "100", "limitPerBuyer": "2", "limitPer": "account",
       "startsAt": "2026-11-27T09:00", "endsAt": "2026-11-27T10:00:30", "paymentMode": "by_buyer",
       "paymentWindowS": "60", "cooldownS": "0", "refundableByBuyer": "on"}  # fmt: skip


FOREIGN = [
    {},
    {"Sec-Fetch-Site": "cross-site", "Referer": "http://test/console"},
    {"Sec-Fetch-Site": "none"},
    {"Referer": "https://evil.example/http://test/"},
    {"Referer": "http://test.evil.example/"},
    {"Referer": "test"},
]
"""Browsers that follow a link of somebody else."""


async def test_an_administrator_creates_a_drop_watches_and_ends_it(console, browser, db):
    """The night of the drop, form by form: what each does to the product, and its row in the trail."""
    one = (await browser.act("/console/products/new", **NEW)).removesuffix("?done=created")
    row = await db.fetchrow("SELECT * FROM products")
    assert (row["name"], row["price_minor"], row["allotment"], row["limit_per_buyer"]) == ("Phone", 99_999, 100, 2)
    assert (row["payment_mode"], row["payment_window_s"], row["refundable_by_buyer"]) == ("by_buyer", 60, True)
    assert (f"{row['starts_at']:%H:%M:%S}", f"{row['ends_at']:%H:%M:%S}") == ("09:00:00", "10:00:30")
    for headers in SAME_ORIGIN, {"Referer": "http://test/console/products/new"}:
        assert "The product is created." in (await browser.get(f"{one}?done=created", **headers)).text, headers
    for headers in FOREIGN:
        shown = await browser.get(f"{one}?done=created", **headers)
        assert (shown.status_code, "is created" in shown.text) == (200, False), headers
    seen = found(r'name="seen" value="([^"]+)"', await browser.page(f"{one}/edit"))
    same = {
        name: NEW[name] for name in ("name", "limitPerBuyer", "limitPer", "paymentWindowS", "cooldownS", "startsAt")
    }
    changed = {**same, "price": "899.99", "endsAt": "", "seen": seen}
    assert await browser.act(f"{one}/edit", **changed) == f"{one}?done=changed"
    stale = await browser.post(f"{one}/edit", **{**changed, "price": "1"})
    assert (stale.status_code, "changed after you read it" in refusal(stale)) == (412, True)
    effect = await browser.page(f"{one}/stock?units=%2B20")
    assert "120 for sale instead of 100." in effect
    assert "120 free instead of 100; orders hold 0." in effect
    assert "Confirm 20 units more" in effect
    pressed = {"units": "+20", "key": "press-1"}
    assert [await browser.act(f"{one}/stock", **pressed) for _ in range(2)] == [f"{one}?done=stock"] * 2
    reused = await browser.post(f"{one}/stock", units="+30", key="press-1")
    assert (reused.status_code, await db.fetchval("SELECT allotment FROM products")) == (422, 120), "twice is once"
    assert await browser.act(f"{one}/stock", units="90")
    assert await browser.act(f"{one}/pause")
    assert "paused" in await browser.page("/console")
    assert "This sale is paused already." in await browser.page(f"{one}/pause")
    assert await browser.act(f"{one}/resume")
    await db.execute("UPDATE products SET starts_at = NULL")
    assert "90 units that are free stay unsold" in await browser.page(f"{one}/close")
    assert await browser.act(f"{one}/close")
    assert await browser.act(f"{one}/archive")
    row = await db.fetchrow("SELECT * FROM products")
    assert (row["price_minor"], row["allotment"], row["archived_at"] is None) == (89_999, 90, False)
    refused = await browser.post(f"{one}/resume")
    assert (refused.status_code, "archived" in refusal(refused)) == (409, True)
    assert "Archived products" in await browser.page("/console/products?archived=true")
    actions = ("createProduct", "changeProduct", "changeStock", "changeStock", "pauseSale", "resumeSale", "closeSale",
               "archiveProduct")  # fmt: skip
    who = (f"product/{row['product_id']}", browser.user.user_id, ADDRESS)
    assert [one for one in await console.trail() if one[1] == who[0]] == [(action, *who) for action in actions]
    shown = await browser.page(f"/console/trail?object=product/{row['product_id']}")
    assert "pauseSale" in shown
    assert browser.user.email in shown


WINDOWS = {
    "Buyers can buy at once.": {},
    "The sale opens at 2099-01-01 09:00:00 UTC: nobody can buy before.": {
        "starts_at": datetime(2099, 1, 1, 9, tzinfo=UTC)
    },
    "The sale has ended, at 2021-01-01 09:00:00 UTC": {"ends_at": datetime(2021, 1, 1, 9, tzinfo=UTC)},
}


async def test_a_question_says_what_is_true_of_the_window(console, browser):
    for says, window in WINDOWS.items():
        one = f"/console/products/{(await add_product(console.services, **window)).product_id}"
        assert "This sale is not paused." in await browser.page(f"{one}/resume")
        await browser.act(f"{one}/pause")
        shown = await browser.page(f"{one}/resume")
        assert [line for line in WINDOWS if line in shown] == [says]
        assert ("The sale has ended already" in await browser.page(f"{one}/close")) == ("ends_at" in window)
        done = await browser.act(f"{one}/resume")
        assert "is no longer paused" in (await browser.get(done, **SAME_ORIGIN)).text


BAD_PRODUCTS = [
    *(({name: value}, name) for name, value in (
        ("name", ""), ("name", "  "), ("name", "x" * 201), ("price", "0"), ("price", "-1"), ("price", "1.234"),
        ("price", "1e3"), ("price", "a lot"), ("currency", "XXX"), ("stock", "-1"), ("stock", "1.5"), ("stock", "many"),
        ("stock", "10000001"), ("limitPerBuyer", "0"), ("limitPer", "person"), ("startsAt", "tomorrow"),
        ("startsAt", "2026-13-01T00:00"), ("paymentMode", "later"), ("paymentWindowS", "0"), ("cooldownS", "86401"),
    )),
    ({"endsAt": "2026-11-27T08:00"}, "endsAt"),
    ({"colour": "red"}, "colour"),
    ({"name": "a\x00b"}, "name"),
]  # fmt: skip


async def test_a_bad_product_is_not_created_and_the_form_keeps_what_was_typed(browser, db):
    for change, field in BAD_PRODUCTS:
        answer = await browser.post("/console/products/new", **{**NEW, **change})
        assert answer.status_code == 400, (change, answer.status_code)
        assert field in refusal(answer), (change, refusal(answer))
        assert 'value="100"' in answer.text or "stock" in change
        assert await db.fetchval("SELECT count(*) FROM products") == 0, change
    assert (await browser.post("/console/products/new", **NEW)).status_code == 303, "the control"


BAD_UNITS = ["", "x", "+", "--5", "1.5", "１０", "+ 5", "9999999999", "+10000000", "-6"]


async def test_bad_units_change_nothing_and_say_why(console, browser, db):
    product = await add_product(console.services, allotment=5)
    one = f"/console/products/{product.product_id}/stock"
    for units in BAD_UNITS:
        answer = await browser.post(one, units=units)
        assert answer.status_code in {400, 409}, units
        assert refusal(answer), units
        shown = await browser.page(f"{one}?{urlencode({'units': units})}")
        assert "Confirm" not in shown, units
    assert await db.fetchval("SELECT allotment FROM products") == 5


async def test_lowering_says_what_orders_hold(console, browser):
    product = await add_product(console.services, allotment=5)
    order_id, _ = await waiting_order(console.services, allotment=3)
    held = (await console.services.order_rows.get_many([order_id]))[order_id].product_id
    assert held != product.product_id
    shown = await browser.page(f"/console/products/{held}/stock?units=0")
    assert "Orders hold 1 units, so at most 2 can be taken away." in shown
    assert "Confirm" not in shown
    refused = await browser.post(f"/console/products/{held}/stock", units="0")
    assert (refused.status_code, "Orders hold 1 units" in refusal(refused)) == (409, True)


async def test_orders_are_found_by_everything_that_support_knows(console, browser):
    order_id, buyer = await paid_order(console.services)
    other, _ = await waiting_order(console.services, name="Other")
    order = (await console.services.order_rows.get_many([order_id]))[order_id]
    email = (await console.services.users.account(buyer.user_id)).email
    queries = {
        f"email={email.upper()}": True,
        "email=nobody@example.com": False,
        f"product={order.product_id}": True,
        "status=confirmed": True,
        "status=expired": False,
        f"from={order.created_at:%Y-%m-%dT%H:%M}": True,
        f"to={order.created_at:%Y-%m-%dT%H:%M}": False,
        f"before={order_id}": False,
        "utm_source=mail": True,
    }
    for query, there in queries.items():
        page = await browser.page(f"/console/orders?{query}")
        assert (f'/console/orders/{order_id}"' in page) is there, query
    assert str(other) in await browser.page("/console/orders")
    by_id = await browser.get(f"/console/orders?id={str(order_id).upper()}")
    assert by_id.headers["location"] == f"/console/orders/{order_id}"
    for bad in ("id=7", "product=0", "product=x", "status=lost", "from=today", "email=%00", "before=1", "a=%ff",
                "email=" + "a" * 300, "id=1&id=2"):  # fmt: skip
        answer = await browser.get(f"/console/orders?{bad}")
        assert (answer.status_code, bool(refusal(answer))) == (400, True), bad
    saved = await browser.get("/console/orders.csv?status=confirmed")
    assert saved.headers["content-disposition"] == 'attachment; filename="orders.csv"'
    assert [row.split(",")[0] for row in saved.text.splitlines()] == ["orderId", str(order_id)]


async def test_a_search_says_where_the_orders_of_an_archived_sale_are(console, browser, db, tmp_path):
    product, orders = await finished(console.services)
    email = await db.fetchval(
        "SELECT email FROM users JOIN orders USING (user_id) WHERE order_id = $1", orders["refunded"]
    )
    done = await archiving(console.services, tmp_path)(product.product_id)
    for query in (f"product={product.product_id}", f"product={product.product_id}&status=confirmed"):
        assert f"left the database for files: {done.place}" in await browser.page(f"/console/orders?{query}"), query
    assert "No order fits" in await browser.page(f"/console/orders?product={product.product_id + 1}")
    assert str(orders["refunded"]) in await browser.page(f"/console/orders?email={email}")


async def test_support_sees_the_story_and_gives_money_back(console, db):
    support = await console.browser(Role.SUPPORT)
    order_id, _ = await paid_order(console.services)
    one = f"/console/orders/{order_id}"
    page = await support.page(one)
    for what in ("Story", "payment begun", "payment ended", "captured", "confirmed", "Give money back"):
        assert what in page, what
    for amount, reason, status in (
        ("1000", "x", 409),
        ("0", "x", 400),
        ("a", "x", 400),
        ("1", "", 400),
        ("1", " ", 400),
    ):
        refused = await support.post(f"{one}/refund", amount=amount, reason=reason)
        assert (refused.status_code, bool(refusal(refused))) == (status, True), (amount, reason)
    refused = await support.post(f"{one}/refund", amount="1", reason="x", restock="on")
    assert refused.status_code == 400
    assert await db.fetchval("SELECT count(*) FROM refunds") == 0
    for _ in range(2):
        asked = await support.act(f"{one}/refund", amount="99.99", reason="Broken <glass>", key="press-1")
        assert asked == f"{one}?done=refunding"
    row = await db.fetchrow("SELECT * FROM refunds")
    assert (row["amount_minor"], row["reason"], row["requested_by"]) == (9_999, "Broken <glass>", support.user.user_id)
    page = await support.page(one)
    assert "Broken &lt;glass&gt;" in page
    assert "pending" in page
    assert "Give money back" not in page, "one at a time"
    await refunding(console.services, Provider())(order_id)
    assert "900.00 USD of 999.99 USD can be given back." in await support.page(one)
    reused = await support.post(f"{one}/refund", amount="50", reason="Scratched", key="press-1")
    assert (reused.status_code, 'value="Scratched"' in reused.text) == (422, True)
    assert found('name="key" value="([^"]+)"', reused.text) != "press-1", "a key that never fits again"
    await support.act(f"{one}/refund", amount="", reason="All of it", restock="on")
    await refunding(console.services, Provider())(order_id)
    assert await db.fetchval("SELECT status FROM orders") == "refunded"
    who = (f"order/{order_id}", support.user.user_id, ADDRESS)
    assert await console.trail() == [("refundOrder", *who)] * 2


async def test_support_cancels_what_was_not_paid(console, db):
    support = await console.browser(Role.SUPPORT)
    order_id, _ = await waiting_order(console.services, payment_mode=PaymentMode.BY_BUYER)
    one = f"/console/orders/{order_id}"
    assert "Cancel the order" in await support.page(one)
    assert await support.act(f"{one}/cancel") == f"{one}?done=cancelled"
    assert await db.fetchval("SELECT status FROM orders") == "cancelled"
    assert "Cancel the order" not in await support.page(one)
    paid, _ = await paid_order(console.services)
    refused = await support.post(f"/console/orders/{paid}/cancel")
    assert (refused.status_code, "cannot be cancelled" in refusal(refused)) == (409, True)
    assert [row[:2] for row in await console.trail()] == [("cancelOrderForBuyer", f"order/{order_id}")]


async def test_a_payment_by_hand_is_marked_as_paid(settings, db):
    by_hand = settings.model_copy(update={"payments": settings.payments.model_copy(update={"provider": "manual"})})
    async with open_console(by_hand, db) as console:
        support = await console.browser(Role.SUPPORT)
        order_id, _ = await manual.unpaid(console.services)
        one = f"/console/orders/{order_id}"
        assert "Mark as paid" in await support.page(one)
        wrong = await support.post(f"{one}/paid", reference="t-7", amount="1", currency="USD")
        assert (wrong.status_code, "record exactly this amount" in refusal(wrong)) == (409, True)
        assert await db.fetchval("SELECT count(*) FROM manual_entries") == 0
        await support.act(f"{one}/paid", reference="t-7", amount="999.99", currency="USD")
        row = await db.fetchrow("SELECT * FROM manual_entries")
        assert (row["reference"], row["recorded_by"]) == ("t-7", support.user.user_id)
        assert [one[0] for one in await console.trail()] == ["recordPayment"]
        paid, _ = await manual.paid(console.services)
        asked = await support.act(f"/console/orders/{paid}/refund", amount="", reason="It broke")
        assert "Give the money back, then record it here." in (await support.get(asked, **SAME_ORIGIN)).text


async def test_an_administrator_looks_after_staff(console, browser, db):
    made = await browser.post("/console/staff", email="new@example.com", role="support")
    assert made.status_code == 200
    assert "A token for new@example.com" in made.text
    user = await db.fetchrow("SELECT * FROM users WHERE email = 'new@example.com'")
    assert user["role"] == "support"
    one = f"/console/staff/{user['user_id']}"
    assert await browser.act(f"{one}/role", role="operator") == "/console/staff?done=role"
    assert await browser.act(f"{one}/sign-out") == "/console/staff?done=ended"
    assert "A token for" in (await browser.post(f"{one}/reset")).text
    row = await db.fetchrow("SELECT role, generation FROM users WHERE email = 'new@example.com'")
    assert tuple(row) == ("operator", 2)
    own = await browser.post(f"/console/staff/{browser.user.user_id}/role", role="buyer")
    assert (own.status_code, "another administrator" in refusal(own)) == (400, True)
    for fields, says in (({"email": "new@example.com", "role": "admin"}, "belongs to an account"),
                         ({"email": "no address", "role": "admin"}, "email"), ({"email": "", "role": "admin"}, "email"),
                         ({"email": "x@example.com", "role": "buyer"}, "role"),
                         ({"email": "x@example.com", "role": "king"}, "role")):  # fmt: skip
        refused = await browser.post("/console/staff", **fields)
        assert (refused.status_code, says in refusal(refused)) == (400, True), (fields, refusal(refused))
    assert (await browser.post(f"/console/staff/{uuid.uuid4()}/sign-out")).status_code == 400
    actions = [row[0] for row in await console.trail() if row[2] == browser.user.user_id]
    assert actions == ["admin create", "admin role", "sign-out", "password-reset"]


async def test_the_audit_runs_on_demand_and_names_what_is_violated(console, db):
    operator = await console.browser(Role.OPERATOR)
    order_id, _ = await paid_order(console.services)
    holds = await operator.post("/console/audit")
    assert "Every invariant holds" in holds.text
    assert "violated" not in holds.text
    assert len(set(re.findall(r">(I\d+)<", holds.text))) > 8
    assert holds.text.count(">not checked<") == 1, "the API may not read the secrets of endpoints"
    await db.execute("DELETE FROM payment_attempts WHERE order_id = $1", order_id)
    wrong = await operator.post("/console/audit")
    assert re.search(r"\d+ violated", wrong.text)
    assert str(order_id) in wrong.text


async def test_the_books_are_read_and_saved(console, browser):
    await paid_order(console.services)
    page = await browser.page("/console/books")
    assert page.count("999.99 USD") >= 2
    saved = await browser.get(found(r'href="(/console/books.csv[^"]+)"', page).replace("&amp;", "&"))
    assert saved.headers["content-type"] == "text/csv; charset=utf-8"
    assert "999.99,0,0.00,,999.99" in saved.text
    for bad in ("since=x", "until=2026-02-30", "timeZone=Mars", "since=2020-01-01&until=2026-01-01",
                "since=2026-01-02&until=2026-01-01"):  # fmt: skip
        assert (await browser.get(f"/console/books?{bad}")).status_code == 400, bad


async def test_a_page_says_that_the_database_is_away(console, browser, monkeypatch):
    async def away():
        raise Unavailable("Postgres does not answer.")

    monkeypatch.setattr(type(console.services.status), "__call__", lambda _: away())
    answer = await browser.get("/console")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert refusal(answer).startswith("Postgres does not answer.")


async def test_a_form_that_is_none_is_refused(console, browser, db):
    product = await add_product(console.services)
    path = f"/console/products/{product.product_id}/pause"
    headers = {**browser.cookie, "Sec-Fetch-Site": "same-origin"}
    for body, kind, status in (
        (b'{"key": "a"}', "application/json", 415),
        (b"key=a", "text/plain", 415),
        (b"key=a", "", 415),
        (b"key=a&key=b", "application/x-www-form-urlencoded", 400),
        (b"key=%ff", "application/x-www-form-urlencoded", 400),
        (b"key=", "application/x-www-form-urlencoded", 400),
        (b"&".join([b"a%d=1" % n for n in range(100)]), "application/x-www-form-urlencoded", 400),
        (b"", "application/x-www-form-urlencoded", 400),
    ):
        answer = await console.client.post(path, content=body, headers={**headers, "Content-Type": kind})
        assert answer.status_code == status, (body, kind, answer.text)
    assert await db.fetchval("SELECT paused FROM products") is False


async def test_an_account_that_asks_too_often_waits(settings, db):
    limited = settings.model_copy(update={"limits": settings.limits.model_copy(update={"administration": 2})})
    async with open_console(limited, db) as console:
        browser = await console.browser()
        answers = [await browser.get("/console/orders") for _ in range(8)]
        late = [one for one in answers if one.status_code == 429]
        assert late
        assert int(late[0].headers["retry-after"]) >= 1


def test_plots_draw_what_was_sampled():
    samples = [Sample(float(at), {"accepted": 2 * at, "sold_out": 10 * at}, {7: 100 - at}) for at in range(0, 100, 5)]
    buys = plots.buys_per_second(samples, 100.0)
    assert {line.name: line.last for line in buys.lines} == {"accepted": 2.0, "refused": 10.0}
    assert buys.most == 10.0
    stock = plots.stock(samples, {7: "Phone"}, 100.0)
    (line,) = stock.lines
    assert (line.last, stock.most) == (5.0, 100.0)
    points = [tuple(map(float, point.split(","))) for point in line.points.split()]
    assert points == sorted(points), "time goes to the right"
    assert all(plots.LEFT <= x <= plots.WIDTH and 0 <= y <= plots.HEIGHT - plots.BOTTOM for x, y in points)
    restarted = [Sample(0.0, {"accepted": 50}, {}), Sample(5.0, {"accepted": 5}, {})]
    assert plots.rates(restarted) == {"accepted": 0.0}, "a counter that starts again is no negative rate"
    for empty in ([], samples[:1]):
        assert [line.points for line in plots.buys_per_second(empty, 0.0).lines] == ["", ""]
        assert plots.rates(empty) == {}


async def test_the_process_samples_buys_and_stock(console):
    product = await add_product(console.services, allotment=3)
    recent = Recent(console.services.catalog)
    await recent.take()
    (sample,) = recent.samples()
    assert sample.stock == {product.product_id: 3}
    assert sample.buys["sold_out"] >= 0
