"""Whatever a browser sends to a page, the answer is never that something went wrong here: every field of every form."""

import re
import uuid
import zlib
from collections import Counter
from urllib.parse import urlencode

import pytest

from flashsale.domain.users import Role
from flashsale.pages.storefront import account_pages
from tests.conftest import add_product, make_settings
from tests.support.charging import waiting_order
from tests.support.console import SAME_ORIGIN, Browser, every_page_and_action, open_console
from tests.support.refunding import paid_order

PAGES, ACTIONS = every_page_and_action()

ODD = [
    "a\x00b",
    "9" * 30,
    str(2**63),
    "-1",
    "0001-01-01",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999-14:00",
    "\U0001f4a9\u202e\uffff%s{}'\"<",
]
"""What some field may take for something, and nothing can hold."""

HEADERS = ("Cookie", "Accept-Language", "If-None-Match", "If-Match", "X-Forwarded-For", "X-Forwarded-Proto", "Referer",
           "Authorization", "Accept", "X-Request-Id", "Idempotency-Key", "Content-Type", "Origin", "Host", "Range")  # fmt: skip
ODD_BYTES = [
    b"\xff\xfe",
    b"flashsale=\xe9",
    b"flashsale=a.b.c",
    b'"' * 99,
    b"," * 99,
    b"fe80::1%\xe9, 1.2.3.4.5",
    b"*;q=9e9",
    b"application/openmetrics-text; version=x; escaping=x",
]

BODIES = [b"\xff", b"key=%ff", b"key=a&key=b", b"&" * 2000, b"%", b"key", b"key=" + b"a" * 60_000]

QUERIES = [
    b"%ff=%ff",
    b"done=%ED%A0%80",
    b"before=%00",
    b"&" * 99,
    b"a=1&a=2",
    b"=" * 99,
    b"lang=%ff&lang[]=x",
    b"x=" + b"y" * 5000,
]

RIGHT = {
    "name": "Phone", "price": "5", "currency": "USD", "stock": "1", "paymentMode": "automatic", "paymentWindowS": "300",
    "cooldownS": "0", "limitPer": "account", "units": "+1", "reason": "broken", "amount": "1", "reference": "transfer",
    "role": "support", "email": "ada@example.com", "password": "short",
}  # fmt: skip
"""Values that the other fields have meanwhile; a password that is refused costs no hashing."""

STOREFRONT = {
    "/sign-in": ("email", "password", "next"),
    "/register": ("name", "email", "password", "next"),
    "/password": ("email", "code", "password"),
    "/sign-out": ("all",),
    "/session": ("x",),
}


@pytest.fixture
async def console(postgres_url, valkey, redis, db):
    unlimited = {"administration": 0, "orders": 0, "streams": 0}
    async with open_console(make_settings(postgres_url, valkey.url, limits=unlimited), db) as opened:
        yield opened


@pytest.fixture
async def paths(console):
    """A function that returns a path of a template for each thing there is."""
    product = await add_product(console.services)
    paid, _ = await paid_order(console.services)
    waiting, _ = await waiting_order(console.services)
    staff = (await console.browser(Role.SUPPORT)).user.user_id
    there = {"product_id": [product.product_id], "order_id": [paid, waiting], "number": [1], "user_id": [staff]}

    def of(template):
        found = [template]
        for name in re.findall(r"\{(\w+):", template):
            found = [re.sub(rf"\{{{name}:\w+\}}", str(one), path) for path in found for one in there[name]]
        return found

    return of


TIMES = {"since", "until", "from", "to", "startsAt", "endsAt", "seen"}


def some(values, *what, most=2):
    """A few of the values, the same each time, others for each field: together the fields get them all."""
    first = zlib.crc32(repr(what).encode())
    return [values[(first + at) % len(values)] for at in range(most)]


def odd(path, name):
    """The values that a field gets: all of them, if it takes times."""
    return ODD if name in TIMES else some(ODD, path, name)


def fields(page, action=None):
    """The names of the fields of a page's forms, or of those that lead to `action`."""
    names = set()
    for head, body in re.findall(r"<form([^>]*)>(.*?)</form>", page, re.DOTALL):
        if action is None or f'action="{action}"' in head:
            names |= set(re.findall(r'\sname="(\w+)"', body))
    return names


def right(answer, *what):
    assert answer.status_code < 500, (answer.status_code, *what, answer.text[-300:])
    return answer.status_code


async def test_no_query_of_a_page_breaks_it(console, paths):
    browser, seen = await console.browser(), Counter()
    for page in PAGES:
        path = paths(page.path)[0]
        shown = await browser.get(path)
        names = {"before", "done"} | (fields(shown.text) if "text/html" in shown.headers["content-type"] else set())
        if path.endswith(".csv"):
            names |= fields(await browser.page(path.removesuffix(".csv")))
        for name in sorted(names):
            for value in odd(path, name):
                seen[right(await browser.get(f"{path}?{urlencode({name: value})}"), path, name, value)] += 1
        for query in some(QUERIES, path):
            seen[right(await browser.get(f"{path}?{query.decode()}"), path, query)] += 1
    assert seen[200] > 30
    assert seen[400] > 30


async def test_no_field_of_a_form_of_the_console_breaks_it(console, paths):
    browser, seen = await console.browser(), Counter()
    pages = {
        path: await browser.page(path) for one in PAGES if not one.path.endswith(".csv") for path in paths(one.path)
    }
    tried = set()
    for action in ACTIONS:
        for path in paths(action.path):
            names = set().union(*(fields(page, path) for page in pages.values()), {"key", "seen"})
            for name in sorted(names):
                others = {one: RIGHT.get(one, "") for one in names - {"restock", "refundableByBuyer", "key", "seen"}}
                for value in odd(path, name):
                    sent = {"key": uuid.uuid4().hex, **others, name: value}
                    seen[right(await browser.post(path, **sent), path, name, value)] += 1
                tried.add((action.path, name))
    assert len(tried) > 50
    assert seen[400] > 50


async def test_no_field_of_a_form_of_the_shop_breaks_it(console, paths, monkeypatch):
    monkeypatch.setattr(account_pages, "ANSWER_S", 0.0)
    browser, seen = await console.browser(Role.BUYER), Counter()
    (product,) = paths("/p/{product_id:int}")
    for path, names in {**STOREFRONT, f"{product}/buy": ("key", "price")}.items():
        for name in names:
            for value in some(ODD, path, name):
                sent = {**{one: RIGHT.get(one, "x") for one in names}, name: value}
                seen[right(await browser.post(path, **sent), path, name, value)] += 1
                seen[right(await browser.get(f"{path}?{urlencode({name: value})}"), path, name, value)] += 1
        for query in some(QUERIES, path):
            right(await browser.get(f"{path}?{query.decode()}"), path, query)
    for path in ("/", product, "/orders", *paths("/order/{order_id:uuid}")):
        for value in some(ODD, path, most=4):
            right(await browser.get(f"{path}?{urlencode({'before': value, 'lang': value})}"), path, value)
    assert seen[422] + seen[400] > 5


async def test_no_header_breaks_a_page_or_a_call(console, paths):
    browser = await console.browser()
    (product,) = paths("/p/{product_id:int}")
    cookie = (b"cookie", browser.cookie["Cookie"].encode())
    token = (b"authorization", b"Bearer " + browser.cookie["Cookie"].partition("=")[2].encode())
    form = [cookie, (b"sec-fetch-site", b"same-origin"), (b"content-type", b"application/x-www-form-urlencoded")]
    json = [token, (b"content-type", b"application/json")]
    calls = [
        *(
            ("GET", path, [cookie, token], b"")
            for path in ("/", product, "/console/trail", "/api/products", "/api/orders")
        ),
        ("GET", "/metrics", [], b""),
        ("POST", "/console/audit", form, b"key=\x00%00"),
        *(("POST", path, json, b'{"name":"\\u0000"}') for path in ("/api/admin/products", "/api/order/buy-flash")),
        ("POST", "/api/webhooks/stripe", [], b"{}"),
    ]
    for method, path, headers, body in calls:
        for name in HEADERS:
            every = name in {"Accept", "Cookie", "Authorization"}
            for value in ODD_BYTES if every else some(ODD_BYTES, path, name):
                sent = [*headers, (name.lower().encode(), value)]
                right(await console.client.request(method, path, headers=sent, content=body), path, name, value)


async def test_no_body_breaks_a_form(console, paths):
    browser = await console.browser()
    headers = {**browser.cookie, **SAME_ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
    for path in {path for action in ACTIONS for path in paths(action.path)} | {"/sign-in", "/register", "/session"}:
        for body in some(BODIES, path):
            right(await console.client.post(path, headers=headers, content=body), path, body[:20])


async def test_a_visitor_without_a_session_breaks_nothing(console, paths):
    nobody = Browser(console.client)
    for one in (*PAGES, *ACTIONS):
        for path in paths(one.path):
            right(await nobody.get(f"{path}?done=%ff"), path)
            right(await nobody.post(path, x="\x00"), path)
