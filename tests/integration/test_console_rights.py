"""Who may open each page of the console and do each action, whose forms it takes, and when its session ends."""

import hashlib
import re
import uuid

import pytest

from flashsale.domain.users import Principal, Role
from flashsale.http.auth import Tokens
from flashsale.http.routes import admin, status, story, trail
from flashsale.local.stack import ROOT
from flashsale.pages.console.signing import after_sign_in
from tests.conftest import add_product, make_settings
from tests.support.charging import waiting_order
from tests.support.console import ADDRESS, SAME_ORIGIN, Browser, every_page_and_action, found, open_console, refusal

PAGES, ACTIONS = every_page_and_action()
PUBLIC_FORMS = ("/console/sign-in", "/console/password", "/console/sign-out")
PASSWORD = "a long enough one"


@pytest.fixture
async def console(settings, db):
    async with open_console(settings, db) as opened:
        yield opened


@pytest.fixture
async def path_of(console):
    """A function that puts ids of what exists into a path."""
    product = await add_product(console.services)
    order_id, _ = await waiting_order(console.services)
    ids = {"product_id": product.product_id, "order_id": order_id, "number": 1, "user_id": uuid.uuid4()}
    return lambda template: re.sub(r"\{(\w+):\w+\}", lambda found: str(ids[found[1]]), template)


async def state(db):
    """Everything that an action of the console could change."""
    tables = ("products", "orders", "refunds", "manual_entries", "admin_trail", "users", "admin_requests")
    found = await db.fetch("SELECT tablename FROM pg_tables WHERE tablename = any($1::text [])", list(tables))
    assert len(found) == len(tables)
    counts = [await db.fetchval(f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {row['tablename']} AS t")
              for row in found]  # fmt: skip
    return dict(zip([row["tablename"] for row in found], counts, strict=True))


def operations():
    """The operations of administration in the API, by name."""
    handlers = [handler for route in admin.routes.routes for handler in route.route_handlers]
    found = [one.opt.get("operation") for one in (*handlers, status.status, story.story, trail.read_trail)]
    return {one.name: one for one in found if one is not None}


def test_a_right_is_that_of_the_api_or_of_the_command_of_its_name():
    known = operations()
    others = {one.right.name: one.right.roles for one in (*PAGES, *ACTIONS) if one.right.name not in known}
    for one in (*PAGES, *ACTIONS):
        if one.right.name in known:
            assert one.right.roles == known[one.right.name].roles, one.path
    assert others.pop("audit") == {Role.OPERATOR, Role.ADMIN}
    assert others == dict.fromkeys(
        ("admin list", "admin create", "admin role", "password-reset", "sign-out"), frozenset({Role.ADMIN})
    )
    done = {one.right.name for one in ACTIONS}
    missing = {name for name, one in known.items() if one.takes is not None} - done - {"setStock"}
    assert not missing, "what the API takes a body for has a form"


async def test_each_role_opens_what_it_may_and_nothing_else(console, path_of):
    for role in Role:
        browser = await console.browser(role)
        for page in PAGES:
            answer = await browser.get(path_of(page.path))
            expected = 200 if role in page.right.roles else 403
            assert answer.status_code == expected, (role, page.path, refusal(answer))
            if expected == 403:
                assert 'href="/console/sign-in"' in answer.text, "no dead end for a browser with another account"
    for page in PAGES:
        path = path_of(page.path)
        answer = await Browser(console.client).get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/console/sign-in?next={path}"), path


async def test_each_role_does_what_it_may_and_nothing_else(console, path_of, db):
    allowed = 0
    for role in [*Role, None]:
        browser = Browser(console.client) if role is None else await console.browser(role)
        before = await state(db)
        for action in ACTIONS:
            path = path_of(action.path)
            if role in action.right.roles:
                # The form lacks its fields: the refusal is about them.
                answer = await browser.client.post(path, headers={**browser.cookie, **SAME_ORIGIN})
                assert answer.status_code == 400, (role, path, answer.text)
                assert refusal(answer), path
                allowed += 1
            else:
                answer = await browser.post(path, units="+1", name="Eve", role="admin", email="eve@example.com")
                assert answer.status_code == (401 if role is None else 403), (role, path)
                assert "location" not in answer.headers
                if role is None:
                    assert "nothing was changed" in refusal(answer)
                    # From the sign-in the way leads back to the page with the form, which a look at the path finds too.
                    wanted = found('name="next" value="([^"]+)"', answer.text)
                    assert wanted in {path_of(page.path) for page in PAGES}, path
                    look = await browser.get(path)
                    leads = look.headers["location"]
                    assert (look.status_code, leads in {wanted, f"/console/sign-in?next={wanted}"}) == (303, True)
        assert await state(db) == before, role
    assert allowed == sum(len(action.right.roles) for action in ACTIONS) > len(ACTIONS)


FOREIGN = [
    {},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://test"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://test.evil.example"},
    {"Origin": "http://test:8080"},
    {"Origin": "null"},
]


async def test_a_form_of_another_site_changes_nothing(console, path_of, db):
    browser = await console.browser()
    before = await state(db)
    paths = [*PUBLIC_FORMS, *(path_of(action.path) for action in ACTIONS)]
    for path in paths:
        for headers in FOREIGN:
            answer = await browser.post(path, headers, units="+1", everywhere="1", email="a@b.example", role="admin")
            assert answer.status_code == 403, (path, headers)
            assert "another site" in refusal(answer)
            assert "set-cookie" not in answer.headers, path
    assert await state(db) == before
    assert await browser.page("/console")
    # The control: the same request from our own page is carried out, by either header.
    product = path_of("/console/products/{product_id:int}")
    for headers in (SAME_ORIGIN, {"Origin": "http://test"}):
        assert (await browser.post(f"{product}/pause", headers)).status_code == 303
    assert await state(db) != before


async def test_no_page_of_another_origin_reads_a_page(settings, db):
    cors = {"cors_origins": ["https://shop.example"], "cors_credentials": True}
    url, redis = (getattr(settings, name).url.get_secret_value() for name in ("postgres", "redis"))
    async with open_console(make_settings(url, redis, http=cors), db) as console:
        browser = await console.browser()
        told = await browser.get("/api/products", Origin="https://shop.example")
        assert told.headers["access-control-allow-origin"] == "https://shop.example"
        for path in ("/console", "/console/orders", "/console/sign-in", "/console/nothing"):
            answer = await browser.get(path, Origin="https://shop.example")
            named = [name for name in answer.headers if name.startswith("access-control-allow")]
            assert not named or path == "/console/nothing", path
            options = await console.client.options(
                path, headers={"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
            )
            assert path == "/console/nothing" or "access-control-allow-origin" not in options.headers


async def member(console, role=Role.ADMIN, password=PASSWORD):
    email = f"{uuid.uuid4().hex}@example.com"
    return await console.services.accounts.create_staff(email=email, password=password, role=role), email


async def signed_in(console, email, headers=SAME_ORIGIN, **fields):
    return await console.client.post(
        "/console/sign-in", data={"email": email, "password": PASSWORD, **fields}, headers=headers
    )


async def test_a_session_is_a_cookie_that_no_script_and_no_other_site_gets(console):
    _, email = await member(console)
    https = {**SAME_ORIGIN, "X-Forwarded-Proto": "https"}
    plain, name = (await signed_in(console, email)).headers.get_list("set-cookie")
    over_tls, name_over_tls = (await signed_in(console, email, https)).headers.get_list("set-cookie")
    assert re.fullmatch(r"flashsale=[\w.-]+; Path=/; HttpOnly; SameSite=Strict", plain)
    assert re.fullmatch(r"__Host-flashsale=[\w.-]+; Path=/; HttpOnly; SameSite=Strict; Secure", over_tls)
    assert re.fullmatch("flashsale-login=[0-9a-f]{16}; Path=/; SameSite=Strict", name)
    assert re.fullmatch("__Host-flashsale-login=[0-9a-f]{16}; Path=/; SameSite=Strict; Secure", name_over_tls)
    value = plain.partition(";")[0]
    assert (await console.client.get("/console", headers={"Cookie": value})).status_code == 200
    # Over TLS only the cookie counts that no neighbour of the host can plant, and never one of two.
    planted = {"Cookie": value, "X-Forwarded-Proto": "https"}
    assert (await console.client.get("/console", headers=planted)).status_code == 303
    assert (await console.client.get("/console", headers={"Cookie": f"{value}; {value}"})).status_code == 303
    for broken in ("flashsale=", "flashsale=a.b.c", "flashsale=é", f"flashsale={'a' * 5000}", "x"):
        answer = await console.client.get("/console", headers={"Cookie": broken.encode()})
        assert answer.status_code == 303, broken


LEADS = {
    "/console/orders": "/console/orders",
    "/console/products/7": "/console/products/7",
    **dict.fromkeys(
        (
            "",
            "https://evil.example",
            "//evil.example",
            "/console//evil.example/..",
            "/console/..//evil.example",
            "/consolexy",
            "/console\r\nSet-Cookie: a=b",
            "/\\evil.example",
            "javascript:alert(1)",
        ),
        "/console",
    ),
}


async def test_a_sign_in_leads_to_a_page_of_the_console_alone(console):
    _, email = await member(console)
    for wanted, leads in LEADS.items():
        assert after_sign_in(wanted) == leads, wanted
        shown = (await console.client.get("/console/sign-in", params={"next": wanted})).text
        assert f'name="next" value="{leads}"' in shown, wanted
    for wanted in ("/console/orders", "//evil.example"):
        answer = await signed_in(console, email, next=wanted)
        assert (answer.status_code, answer.headers["location"]) == (303, LEADS[wanted]), wanted


async def test_only_staff_with_the_right_password_sign_in(console):
    _, email = await member(console)
    wrong = await signed_in(console, email, password="not this one")
    assert (wrong.status_code, refusal(wrong)) == (401, "Email or password is wrong. Try again.")
    assert email in wrong.text
    assert "not this one" not in wrong.text
    await console.services.accounts.register(name="B", email="b@example.com", password=PASSWORD)
    buyer = await signed_in(console, "b@example.com")
    assert (buyer.status_code, "set-cookie" in buyer.headers) == (403, False)
    assert "is for staff" in refusal(buyer)


async def test_a_session_ends_with_its_token(console):
    user, email = await member(console)
    cookies = [(await signed_in(console, email)).headers["set-cookie"].partition(";")[0] for _ in range(2)]
    one, other = [Browser(console.client, cookie.partition("=")[2]) for cookie in cookies]
    left = await one.post("/console/sign-out")
    assert (left.status_code, left.headers["location"]) == (303, "/console/sign-in")
    assert ["Max-Age=0" in cookie for cookie in left.headers.get_list("set-cookie")] == [True, True]
    assert await other.page("/console"), "a sign-out of one browser leaves the other"
    await one.post("/console/sign-out", everywhere="1")
    assert (await other.get("/console")).status_code == 303
    polled = await other.get("/console", **{"HX-Request": "true"})
    assert (polled.status_code, polled.headers["hx-redirect"]) == (401, "/console/sign-in")
    assert await console.db.fetchval("SELECT generation FROM users WHERE user_id = $1", user.user_id) == 1


async def test_the_trail_names_staff_who_sign_out_everywhere(console):
    for path, field in (("/console/sign-out", "everywhere"), ("/sign-out", "all")):
        browser = await console.browser(Role.SUPPORT)
        assert (await browser.post(path, **{field: "1"})).status_code == 303
        assert (await browser.get("/console")).status_code == 303
        user_id = browser.user.user_id
        assert (await console.trail())[-1] == ("logOut", f"account/{user_id}", user_id, ADDRESS), path


async def test_the_role_in_the_token_does_not_count(console):
    browser = await console.browser(Role.SUPPORT)
    tokens = Tokens(console.services.settings.auth)
    forged = Browser(console.client, tokens.issue(Principal(user_id=browser.user.user_id, role=Role.ADMIN)))
    assert (await forged.get("/console/trail")).status_code == 403
    assert await forged.page("/console/orders")


async def test_a_member_of_staff_sets_a_password_by_the_token_of_an_administrator(console):
    browser = await console.browser()
    made = await browser.post("/console/staff", email="new@example.com", role="support")
    token = found(r'<textarea id="token"[^>]*>([\w.-]+)<', made.text)
    sent = {"token": token, "password": PASSWORD}
    set_by = await console.client.post("/console/password", data=sent, headers=SAME_ORIGIN)
    assert (set_by.status_code, set_by.headers["location"]) == (303, "/console/sign-in")
    again = await console.client.post("/console/password", data=sent, headers=SAME_ORIGIN)
    assert again.status_code == 401
    assert (await signed_in(console, "new@example.com")).status_code == 303


def test_the_vendored_scripts_are_as_their_authors_published_them():
    folder = ROOT / "src/flashsale/pages/vendor"
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert {name: digest for name, digest in files.items() if name not in {"SHA256SUMS", "README.md"}} == sums
