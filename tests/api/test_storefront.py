"""The storefront without a script: what each page answers, and a purchase by forms alone."""

import asyncio
import html
import re
import uuid
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from flashsale.http.pages import PageParts
from flashsale.pages.assets import POLICY, Assets
from flashsale.pages.storefront.routes import ASSETS, routes
from tests.conftest import make_settings
from tests.support.api import BUY, final, waiting_order

PASSWORD = "a long password of a buyer"
WEIGHT_MAX = 60_000
CARD_MAX = 1500
"""Bytes of a product in the list, with the longest name."""
FIELDS = {
    "content-security-policy": POLICY.decode(),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-type": "text/html; charset=utf-8",
}


def page_routes():
    """Return method and template of every page of the storefront."""
    services = SimpleNamespace(
        settings=make_settings("postgresql://x@127.0.0.1:9/x", "redis://127.0.0.1:9"),
        **dict.fromkeys(("catalog", "accounts", "sessions", "refunds")),
        orders=SimpleNamespace(cancel=None),
    )
    parts = PageParts(
        services=services, **dict.fromkeys(name for name in PageParts.__annotations__ if name != "services")
    )
    found = [(one.method, one.template) for one in routes(parts, Assets([ASSETS]))]
    assert len(found) >= 15
    return found


ROUTES = page_routes()


@pytest.fixture
async def visitor(stack):
    """A browser without scripts: it keeps cookies and sends its origin with forms."""
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30, headers={"Origin": stack.base_url}) as client:
        yield client


def signed_in(visitor, headers):
    visitor.cookies.clear()
    token = headers["Authorization"].removeprefix("Bearer ")
    visitor.cookies.set("flashsale", token, domain=visitor.base_url.host, path="/")
    return visitor


@pytest.fixture(scope="module")
def two_buyers(make_buyers):
    return make_buyers(2)


OF_FORMS = {
    "/sign-out": "/orders",
    **{f"/order/{{order_id:uuid}}/{one}": "/order/{order_id:uuid}" for one in ("pay", "cancel", "refund")},
}
"""Paths of forms that are on another page, and that page."""


def path_of(template, product_id, order_id):
    template += "?key=a-key" if template.endswith("/buy") else ""
    return template.replace("{product_id:int}", str(product_id)).replace("{order_id:uuid}", order_id)


@pytest.fixture
async def order(api, product, buyer):
    """A product, and an order of it that waits for its buyer."""
    product_id = await product(paymentMode="by_buyer", refundableByBuyer=True, limitPerBuyer=2)
    return product_id, await waiting_order(api, product_id, buyer)


async def test_every_page_is_safe_and_only_public_pages_may_be_kept(visitor, order, buyer):
    signed_in(visitor, buyer)
    for method, template in ROUTES:
        path = path_of(template, *order)
        if method == "GET" and template in OF_FORMS:
            led = await visitor.get(path)
            assert (led.status_code, led.headers["location"]) == (303, path_of(OF_FORMS[template], *order)), path
        elif method == "GET":
            got, head = await visitor.get(path), await visitor.head(path)
            assert (got.status_code, head.status_code, head.content) == (200, 200, b""), path
            assert FIELDS.items() <= dict(got.headers).items(), path
            volatile = {"date", "x-request-id", "content-length"}
            assert {*got.headers} - volatile == {*head.headers} - volatile
            public = template in {"/", "/p/{product_id:int}"}
            assert got.headers["cache-control"].startswith("public, max-age=" if public else "no-store"), path
            assert ("etag" in got.headers) == public
            assert "set-cookie" not in got.headers
            assert not re.search(r"\bstyle=|<style|\bon\w+=|<script(?![^>]*\b(src|type)=)", got.text), path
        allowed = set((await visitor.options(path)).headers["allow"].split(", "))
        assert method in allowed
        refused = await visitor.request("DELETE", path)
        assert (refused.status_code, refused.headers["cache-control"]) == (405, "no-store")


async def test_no_page_of_another_origin_can_read_or_send_anything(visitor, order, buyer, database):
    signed_in(visitor, buyer)
    generation = "SELECT sum(generation) FROM users"
    before = await database.fetchval("SELECT count(*) FROM orders"), await database.fetchval(generation)
    tried = 0
    for method, template in ROUTES:
        path = path_of(template, *order)
        for fields in (
            {"Origin": "https://shop.example"}, {"Origin": "null"}, {"Origin": ""},
            {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
        ):  # fmt: skip
            answer = await visitor.request(
                method, path, headers=fields, data={"key": "k"} if method == "POST" else None
            )
            assert not [name for name in answer.headers if name.startswith("access-control-")], (method, path)
            if method == "POST":
                assert (answer.status_code, "set-cookie" in answer.headers) == (403, False), (path, fields)
                tried += 1
    assert tried > 40
    assert before == (await database.fetchval("SELECT count(*) FROM orders"), await database.fetchval(generation))
    assert (await visitor.get(f"/order/{order[1]}")).text.count('data-state="pay"') == 1


async def test_a_public_page_is_the_same_for_all_visitors_and_revalidates(visitor, order, buyer):
    for path in ("/", f"/p/{order[0]}"):
        stranger = await visitor.get(path)
        assert stranger.headers["vary"] == "accept-language"
        for _ in range(2):
            again = await visitor.get(path, headers={"If-None-Match": stranger.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            for name in ("etag", "cache-control", "vary"):
                assert again.headers[name] == stranger.headers[name]
            signed_in(visitor, buyer)
        assert (await visitor.get(path)).text == stranger.text
        german = await visitor.get(path, headers={"Accept-Language": "de-AT, en;q=0.5"})
        assert '<html lang="de">' in german.text
        assert german.headers["etag"] != stranger.headers["etag"]
        chosen = await visitor.get(path, params={"lang": "de", "utm_source": "mail", "fbclid": "%00"})
        assert (chosen.status_code, '<html lang="de">' in chosen.text) == (200, True)
        assert 'href="/orders?lang=de"' in chosen.text
        visitor.cookies.clear()


async def test_files_are_kept_for_ever_and_a_page_of_another_release_gets_them_too(visitor):
    page = (await visitor.get("/")).text
    (sheet,) = re.findall(r'href="(/assets/[^"]+\.css)"', page)
    got = await visitor.get(sheet)
    assert (got.status_code, got.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert got.headers["cache-control"] == "public, max-age=31536000, immutable"
    other = await visitor.get("/assets/0123456789abcdef/shop.css")
    assert (other.content, other.headers["cache-control"]) == (got.content, "no-cache")
    again = await visitor.get(sheet, headers={"If-None-Match": got.headers["etag"]})
    assert (again.status_code, again.headers["cache-control"]) == (304, got.headers["cache-control"])
    for missing in ("nothing.js", "routes.py", "..%2Froutes.py", "%2e%2e", "shop.css%00"):
        answer = await visitor.get(f"/assets/{sheet.split('/')[2]}/{missing}")
        assert (answer.status_code, answer.json()["code"], answer.headers["cache-control"]) == (
            404,
            "no_such_path",
            "no-store",
        )


async def test_pages_are_light(visitor, order, buyer):
    signed_in(visitor, buyer)
    for method, template in ROUTES:
        if method == "GET":
            page = await visitor.get(path_of(template, *order))
            todo, seen = re.findall(r'(?:src|href)="(/assets/[^"]+)"', page.text), {}
            while todo:
                path = todo.pop()
                if path not in seen:
                    seen[path] = (await visitor.get(path)).text
                    todo += [
                        f"{path.rpartition('/')[0]}/{name}" for name in re.findall(r'from "\./([^"]+)"', seen[path])
                    ]
            # The list grows with the products, which other tests make too.
            cards = re.findall(r'<li class="card">.*?</li>', page.text, re.DOTALL)
            assert all(len(card.encode()) < CARD_MAX for card in cards), cards
            listed = sum(len(card.encode()) for card in cards[1:])
            weight = len(page.content) - listed + sum(len(text.encode()) for text in seen.values())
            assert weight < WEIGHT_MAX, (template, weight)


async def enter(visitor, email=None):
    form = {"name": "Ann", "email": email or f"{uuid.uuid4().hex}@example.com", "password": PASSWORD, "next": "/orders"}
    answer = await visitor.post("/register", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/orders"), answer.text
    return form


async def form_of(visitor, product_id):
    """Open the form that buys a product."""
    form = await visitor.get(f"/p/{product_id}/buy", follow_redirects=True)
    assert form.status_code == 200, form.text
    return form


def key_of(page):
    (key,) = re.findall(r'name="key" value="([^"]+)"', page.text)
    return key


async def test_a_buyer_without_scripts_registers_buys_once_pays_and_gets_the_money_back(visitor, product, api, stack):
    product_id = await product(stock=3, paymentMode="by_buyer", refundableByBuyer=True)
    page = await visitor.get(f"/p/{product_id}")
    assert f'role="status">Live values need JavaScript. <a href="/p/{product_id}/buy">' in page.text
    away = await visitor.get(f"/p/{product_id}/buy")
    assert (away.status_code, away.headers["location"]) == (303, f"/sign-in?next=/p/{product_id}/buy")
    account = await enter(visitor)
    form = await form_of(visitor, product_id)
    assert len({key_of(form), key_of(await form_of(visitor, product_id))}) == 2
    pressed = await asyncio.gather(
        *(visitor.post(f"/p/{product_id}/buy", data={"key": key_of(form)}) for _ in range(3))
    )
    assert {answer.status_code for answer in pressed} == {303}
    (path,) = {answer.headers["location"] for answer in pressed}
    back = await visitor.get(str(form.url))
    assert key_of(back) == key_of(form), "a browser that goes back to the form sends the same request"
    assert (await api.get(f"/api/products/{product_id}")).json()["stock"] == 2
    await until(visitor, path, 'data-state="pay"')
    waiting = await visitor.get(path)
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in waiting.text
    assert (await visitor.post(f"{path}/refund")).status_code == 409
    paid = await visitor.post(f"{path}/pay")
    assert (paid.status_code, paid.headers["location"]) == (303, path)
    await until(visitor, path, 'data-state="confirmed"')
    late = await visitor.post(f"{path}/cancel")
    assert (late.status_code, 'role="alert"' in late.text, 'data-state="confirmed"' in late.text) == (409, True, True)
    assert (await visitor.post(f"{path}/refund")).status_code == 303
    await until(visitor, path, 'data-state="refunded"')
    assert "http-equiv" not in (await visitor.get(path)).text
    assert "Refunded" in (await visitor.get("/orders")).text
    out = await visitor.post("/sign-out")
    assert (out.status_code, out.headers["clear-site-data"]) == (303, '"storage"')
    assert (await visitor.get("/orders")).headers["location"] == "/sign-in?next=/orders"
    wrong = await visitor.post("/sign-in", data={**account, "password": "another one"})
    assert (wrong.status_code, "set-cookie" in wrong.headers, account["email"] in wrong.text) == (422, False, True)
    assert PASSWORD not in wrong.text
    assert (await visitor.post("/sign-in", data={**account, "next": "//evil.example"})).headers["location"] == "/"
    assert "Refunded" in (await visitor.get("/orders")).text


async def until(visitor, path, text):
    async with asyncio.timeout(60):
        while text not in (page := await visitor.get(path)).text:
            await asyncio.sleep(0.05)
    return page


async def test_a_form_says_why_it_did_not_buy_and_keeps_the_key_only_if_nothing_is_decided(
    visitor, product, buyer, api, admin
):
    signed_in(visitor, buyer)
    cases = {
        "sold_out": ({"stock": 0}, "Sold out. You have not been charged."),
        "before": ({"startsAt": "2099-01-01T00:00:00Z"}, "The sale has not started yet. You have not been charged."),
        "ended": ({"startsAt": "2020-01-01T00:00:00Z", "endsAt": "2021-01-01T00:00:00Z"}, "The sale has ended."),
        "paused": ({}, "The sale is paused."),
    }
    for state, (changes, told) in cases.items():
        product_id = await product(**changes)
        if state == "paused":
            assert (await api.post(f"/api/admin/products/{product_id}/pause", headers=admin)).status_code == 200
            await until(visitor, f"/p/{product_id}/buy?key=k", 'data-state="paused"')
        form = await form_of(visitor, product_id)
        assert f'data-state="{state}"' in form.text
        refused = await visitor.post(f"/p/{product_id}/buy", data={"key": key_of(form)})
        assert (refused.status_code, told in refused.text) == (409, True), refused.text
        assert key_of(refused) != key_of(form)
    for key in ("", "x" * 256, "ä", "a\nb"):
        assert (await visitor.post(f"/p/{product_id}/buy", data={"key": key})).status_code == 400


@pytest.mark.parametrize("moves", [False, True], ids=["archived", "moved"])
async def test_a_form_that_was_accepted_leads_to_its_order_when_the_product_has_gone(
    visitor, product, buyer, api, admin, database, moves
):
    product_id = await product()
    form = await form_of(signed_in(visitor, buyer), product_id)
    sent = {"key": key_of(form), "price": "999.99"}
    order = (await visitor.post(f"/p/{product_id}/buy", data=sent)).headers["location"]
    assert await final(api, order.rpartition("/")[2], buyer) == "confirmed"
    assert (await api.post(f"/api/admin/products/{product_id}/pause", headers=admin)).is_success
    if moves:
        await database.execute("SELECT leave_cell_v1($1, $2, 1, true)", product_id, uuid.uuid4())
        await database.execute("UPDATE products SET moved_to = 10000001 WHERE product_id = $1", product_id)
        async with asyncio.timeout(60):
            while (await visitor.get(f"/p/{product_id}")).headers.get("location") != "/p/10000001":
                await asyncio.sleep(0.05)
    else:
        assert (await api.post(f"/api/admin/products/{product_id}/archive", headers=admin)).is_success
        await until(visitor, f"/p/{product_id}", "There is no such product.")
    # The answer to the form was lost, and the browser sends it again.
    again = await visitor.post(f"/p/{product_id}/buy", data=sent)
    assert (again.status_code, again.headers["location"]) == (303, order)
    other = await visitor.post(f"/p/{product_id}/buy", data={**sent, "key": "another"})
    assert (other.status_code, other.headers.get("location")) == ((303, "/p/10000001") if moves else (404, None))


async def test_a_form_buys_at_the_price_that_it_shows(visitor, product, buyer, api, admin):
    product_id = await product(price="20.00")
    form = await form_of(signed_in(visitor, buyer), product_id)
    sent = {"key": key_of(form), "price": "20.00"}
    assert 'name="price" value="20.00"' in form.text
    assert (await api.patch(f"/api/admin/products/{product_id}", json={"price": "15.00"}, headers=admin)).is_success
    refused = await visitor.post(f"/p/{product_id}/buy", data=sent)
    assert (refused.status_code, "The price has changed" in refused.text) == (409, True)
    assert 'name="price" value="15.00"' in refused.text
    again = await visitor.post(f"/p/{product_id}/buy", data={"key": key_of(refused), "price": "15.00"})
    assert again.status_code == 303
    assert (await visitor.post(f"/p/{product_id}/buy", data={"key": "k", "price": "x"})).status_code == 400


async def test_pages_of_what_is_not_there_say_so(visitor, order, buyers, product, api, admin):
    signed_in(visitor, next(buyers))
    archived = await product(startsAt="2099-01-01T00:00:00Z")
    assert (await api.post(f"/api/admin/products/{archived}/archive", headers=admin)).status_code == 200
    await until(visitor, f"/p/{archived}", "There is no such product.")
    for path in ("/p/2000000000", f"/p/{archived}", f"/order/{order[1]}", f"/order/{uuid.uuid4()}"):
        answer = await visitor.get(path)
        caching = "public, max-age=1" if path.startswith("/p/") else "no-store"
        assert (answer.status_code, answer.headers["cache-control"]) == (404, caching), path
        assert FIELDS.items() <= dict(answer.headers).items()
        assert 'role="alert"' in answer.text
    for action in ("pay", "cancel", "refund"):
        assert (await visitor.post(f"/order/{order[1]}/{action}")).status_code == 404
    for path in ("/p/x", "/p/01", "/order/1", "/nothing"):
        assert (await visitor.get(path)).json()["code"] == "no_such_path"


async def test_only_a_page_of_the_shop_leads_to_the_word_of_a_new_password(visitor):
    for headers, told in (
        ({}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
    ):
        shown = await visitor.get("/sign-in?done=password", headers=headers)
        assert (shown.status_code, 'role="status"' in shown.text) == (200, told), headers


async def test_the_script_gets_a_token_that_soon_expires_and_ends_with_the_account(visitor, buyer, api, product):
    assert (await visitor.post("/session")).json() == {"token": None}
    signed_in(visitor, buyer)
    answer = await visitor.post("/session")
    assert answer.headers["cache-control"] == "no-store"
    cookie, name = answer.headers.get_list("set-cookie")
    assert re.fullmatch(r"flashsale=[\w.-]+; Path=/; HttpOnly; SameSite=Strict", cookie)
    assert name == f"flashsale-login={answer.json()['visit']}; Path=/; SameSite=Strict"
    token = {"Authorization": f"Bearer {answer.json()['token']}"}
    assert answer.json()["expiresIn"] == 300
    assert answer.json()["token"] not in cookie
    bought = await api.post(BUY, json={"productId": await product()}, headers=token)
    assert await final(api, bought.json()["orderId"], token) == "confirmed"
    assert (await visitor.post("/sign-out", data={"all": "1"})).status_code == 303
    for _ in range(1200):
        if (await api.get("/api/orders", headers=token)).status_code == 401:
            break
        await asyncio.sleep(0.05)
    assert (await api.get("/api/orders", headers=token)).status_code == 401
    signed_in(visitor, buyer)
    assert (await visitor.post("/session")).json() == {"token": None}


async def test_a_browser_knows_whose_request_it_keeps_without_the_id(visitor, two_buyers):
    tags = []
    for one in (two_buyers[0], two_buyers[1], two_buyers[0]):
        answer = await signed_in(visitor, one).post("/session")
        tags.append(answer.json()["account"])
    assert (tags[0], tags[0] != tags[1]) == (tags[2], True)
    assert all(re.fullmatch("[0-9a-f]{16}", tag) for tag in tags)


async def test_all_tabs_of_a_login_make_their_keys_of_the_same_name(visitor, two_buyers):
    names = []
    for one in two_buyers:
        signed_in(visitor, one)
        names.append({(await visitor.post("/session")).json()["visit"] for _ in range(2)})
    (first,), (second,) = names
    assert first != second
    assert re.fullmatch("[0-9a-f]{16}", first)


async def test_no_script_of_the_storefront_gets_the_rights_of_staff_and_their_session_is_not_prolonged(visitor, admin):
    answer = await signed_in(visitor, admin).post("/session")
    told = {"token": None, "staff": True}
    assert (answer.status_code, answer.json(), "set-cookie" in answer.headers) == (200, told, False)


async def test_another_language_is_another_form_of_the_same_page(visitor, buyer, product):
    signed_in(visitor, buyer)
    form = await form_of(visitor, await product())
    for path in (str(form.url), "/sign-in?next=/p/7", f"/orders?before={uuid.uuid4()}"):
        page = await visitor.get(path)
        (other,) = re.findall(r'href="([^"]+)" hreflang="de"', page.text)
        german = urlsplit(html.unescape(other))
        wanted = urlsplit(path)
        assert german.path == wanted.path
        assert parse_qs(german.query) == {**parse_qs(wanted.query), "lang": ["de"]}
        assert (await visitor.get(html.unescape(other))).status_code == 200


async def test_a_key_of_another_request_is_named_and_never_shown_again(visitor, product, buyers):
    signed_in(visitor, next(buyers))
    first, other = await product(), await product()
    assert (await visitor.post(f"/p/{first}/buy", data={"key": "k"})).status_code == 303
    reused = await visitor.post(f"/p/{other}/buy", data={"key": "k"})
    assert (reused.status_code, "An order was sent from this page before" in reused.text) == (422, True)
    assert key_of(reused) != "k"


async def test_a_form_whose_session_ended_comes_back_from_the_sign_in_with_its_key_and_price(visitor, product, stack):
    product_id = await product(stock=3)
    account = await enter(visitor)
    path = f"/p/{product_id}/buy"
    sent = {"key": "a key & a=b", "price": "12.50"}
    first = {"key": "a key & a=b", "price": "999.99"}
    bought = await visitor.post(path, data=first)
    assert bought.headers["location"].startswith("/order/"), bought.text
    visitor.cookies.clear()
    for form in (first, sent):
        away = await visitor.post(path, data=form)
        assert (away.status_code, urlsplit(away.headers["location"]).path) == (303, "/sign-in")
        (wanted,) = parse_qs(urlsplit(away.headers["location"]).query)["next"]
        assert html.escape(wanted) in (await visitor.get(away.headers["location"])).text
        back = await visitor.post("/sign-in", data={**account, "next": wanted})
        page = await visitor.get(back.headers["location"])
        assert html.unescape(key_of(page)) == form["key"]
        assert f'name="price" value="{form["price"]}"' in page.text
        # The page prints what the form pays.
        assert page.text.count(f"{form['price']}\N{NO-BREAK SPACE}USD") == 2
        visitor.cookies.clear()
    await visitor.post("/sign-in", data=account)
    again = await visitor.post(path, data=first)
    assert again.headers["location"] == bought.headers["location"]
    assert (await visitor.get(path, params={"key": "k", "price": "x"})).status_code == 400
    assert (await visitor.get(path, params={"key": ""})).status_code == 400


async def test_a_browser_that_comes_from_another_site_keeps_its_session(visitor, order, buyer):
    """A strict cookie is not sent from the provider's page: the page loads itself again, and then it is."""
    path = f"/order/{order[1]}"
    first = await visitor.get(path, headers={"Sec-Fetch-Site": "cross-site"})
    assert (first.status_code, f'content="0; url={path}"' in first.text) == (200, True)
    signed_in(visitor, buyer)
    assert 'data-state="pay"' in (await visitor.get(path, headers={"Sec-Fetch-Site": "same-origin"})).text


async def test_a_forgotten_password_is_set_by_a_code(visitor):
    sent = await visitor.post("/password", data={"email": f"{uuid.uuid4().hex}@example.com"})
    assert (sent.status_code, "its code is on the way" in sent.text) == (200, True)
    wrong = await visitor.post("/password", data={"code": "nonsense", "password": PASSWORD})
    assert (wrong.status_code, "The code is wrong" in wrong.text) == (422, True)
    weak = await visitor.post("/register", data={"name": "A", "email": "a@b.example", "password": "password"})
    assert (weak.status_code, "Please choose another password" in weak.text) == (400, True)
    assert urlsplit(str(weak.url)).path == "/register"


async def test_bodies_that_are_no_forms_are_refused(visitor):
    for method, template in ROUTES:
        if method == "POST" and "{" not in template and template not in {"/session", "/sign-out"}:
            answer = await visitor.post(template, json={"email": "a@b.example", "password": PASSWORD})
            assert answer.status_code == 415, template
            twice = await visitor.post(
                template,
                content="email=a&email=b",
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )
            assert twice.status_code == 400, template
