"""Limits of accounts, and the RateLimit fields, parsed as structured fields."""

import re
import time
import uuid
from contextlib import asynccontextmanager

import httpx
import pytest

from flashsale.bootstrap.api import open_services
from flashsale.domain.users import Principal, Role
from flashsale.http.app import build_app
from flashsale.http.auth import Tokens
from flashsale.http.streams.hub import LiveHub
from tests.conftest import add_buyers, add_product, execute, make_settings

BUY = "/api/order/buy-flash"
LIMIT = 3
ITEM = re.compile(r'"([a-z-]+)"((?:;[a-z]+=[0-9]+)+)')
FIELD = re.compile(rf"{ITEM.pattern}(?:, {ITEM.pattern})*")


def items(field):
    """Read a list of strings with integer parameters (RFC 9651)."""
    assert FIELD.fullmatch(field), field
    return {
        name: {key: int(value) for key, value in re.findall(r";([a-z]+)=([0-9]+)", parameters)}
        for name, parameters in ITEM.findall(field)
    }


@asynccontextmanager
async def shop(postgres_url, valkey, **gate):
    """An app with low limits for an hour, its buyer and its administrator; the window is far from its end."""
    limits = {"orders": LIMIT, "streams": LIMIT, "administration": LIMIT}
    settings = make_settings(
        postgres_url, valkey.url, gate={"rate_limit": LIMIT, "rate_window_s": 3600, **gate}, limits=limits
    )
    async with open_services(settings, name="test") as services:
        tokens = Tokens(settings.auth)
        app = build_app(services, LiveHub(services))
        ids = await add_buyers(services, 3)
        await execute(postgres_url, f"UPDATE users SET role = 'admin' WHERE user_id = '{ids[2]}'")
        # A change of the role raises the generation.
        principals = [
            Principal(user_id=ids[0], role=Role.BUYER),
            Principal(user_id=ids[1], role=Role.BUYER),
            Principal(user_id=ids[2], role=Role.ADMIN, generation=1),
        ]
        headers = [{"Authorization": f"Bearer {tokens.issue(one)}"} for one in principals]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            yield client, services, *headers


@pytest.fixture(autouse=True)
def an_hour_is_a_window(monkeypatch):
    """Limits that are a second's in the shop are an hour's here, so that no test falls between two windows."""
    monkeypatch.setattr("flashsale.http.limits.WINDOW_S", 3600)
    if time.time() % 3600 > 3570:
        pytest.skip("the hour ends")


async def sold_out(services):
    return (await add_product(services, allotment=0)).product_id


async def paused(services):
    product = await add_product(services)
    from flashsale.domain.products import ProductChange

    await services.administer.change(product.product_id, ProductChange(fields={"paused": True}))
    return product.product_id


async def on_sale(services):
    return (await add_product(services, allotment=LIMIT)).product_id


async def unknown(_):
    return 2_000_000_000


@pytest.mark.parametrize(
    ("make", "answer"),
    [(on_sale, 202), (sold_out, 409), (paused, 409), (unknown, 404)],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
@pytest.mark.parametrize("key", [None, "same", "new"])
async def test_a_buy_of_whatever_is_limited_and_says_what_is_left(postgres_url, valkey, redis, make, answer, key):
    async with shop(postgres_url, valkey) as (api, services, buyer, other, _):
        product_id = await make(services)
        seen = []
        for _ in range(LIMIT + 2):
            sent = {} if key is None else {"Idempotency-Key": key if key == "same" else uuid.uuid4().hex}
            got = await api.post(BUY, json={"productId": product_id}, headers={**buyer, **sent})
            assert items(got.headers["ratelimit-policy"]) == {"buys": {"q": LIMIT, "w": 3600}}
            seen.append((got.status_code, items(got.headers["ratelimit"])["buys"]["r"]))
            assert 0 < items(got.headers["ratelimit"])["buys"]["t"] <= 3600
        assert seen == [(answer, left) for left in reversed(range(LIMIT))] + [(429, 0)] * 2
        got = await api.post(BUY, json={"productId": product_id}, headers=other)
        assert got.status_code == (409 if make is on_sale and key != "same" else answer), (
            "another buyer's limit is another"
        )


async def test_unknown_products_are_limited_together(postgres_url, valkey, redis):
    async with shop(postgres_url, valkey) as (api, _, buyer, _, _):
        statuses = [
            (await api.post(BUY, json={"productId": 2_000_000_000 + n}, headers=buyer)).status_code for n in range(6)
        ]
        assert statuses == [404] * LIMIT + [429] * 3


async def test_each_policy_has_its_name_and_is_counted_by_itself(postgres_url, valkey, redis):
    async with shop(postgres_url, valkey, attempts_per_minute=2) as (api, services, buyer, other, admin):
        product_id = (await add_product(services)).product_id
        bought = await api.post(BUY, json={"productId": product_id}, headers=buyer)
        assert items(bought.headers["ratelimit-policy"]) == {
            "buys": {"q": LIMIT, "w": 3600},
            "buy-attempts": {"q": 2, "w": 60},
        }
        order = f"/api/order/{bought.json()['orderId']}"
        calls = {
            "orders": [("GET", f"{order}/status", 200), ("POST", f"{order}/pay", 409), ("POST", f"{order}/cancel", 409),
                       ("POST", f"{order}/stream-token", 429), ("GET", f"{order}/status", 429)],
            "administration": [("GET", "/api/admin/orders", 200), ("GET", f"/api/admin/products/{product_id}", 200),
                               ("POST", f"/api/admin/products/{product_id}/pause", 200), ("GET", "/api/admin/orders", 429)],
        }  # fmt: skip
        for policy, made in calls.items():
            headers = admin if policy == "administration" else buyer
            for number, (method, path, status) in enumerate(made, start=1):
                answer = await api.request(method, path, headers=headers)
                assert answer.status_code in {status, 202}, (path, answer.text)
                assert items(answer.headers["ratelimit-policy"]) == {policy: {"q": LIMIT, "w": 3600}}
                assert items(answer.headers["ratelimit"])[policy]["r"] == max(0, LIMIT - number)
                assert (int(answer.headers["retry-after"]) >= items(answer.headers["ratelimit"])[policy]["t"]
                        if status == 429 else "retry-after" not in answer.headers)  # fmt: skip
        nobody = [(await api.get("/api/admin/orders", headers=other)).status_code for _ in range(LIMIT + 1)]
        assert nobody == [403] * LIMIT + [429], "who is no administrator may not make us look that up for ever"


async def test_openings_of_order_streams_are_limited(postgres_url, valkey, redis):
    async with shop(postgres_url, valkey) as (api, services, buyer, other, _):
        product_id = (await add_product(services)).product_id
        order_id = (await api.post(BUY, json={"productId": product_id}, headers=buyer)).json()["orderId"]
        # Refused openings count as well: these are of somebody else's order, and end at once.
        answers = [await api.get(f"/sse/orders/{order_id}", headers=other) for _ in range(LIMIT + 2)]
        assert [answer.status_code for answer in answers] == [404] * LIMIT + [429] * 2
        assert items(answers[0].headers["ratelimit"]) == {
            "streams": {"r": LIMIT - 1, "t": items(answers[0].headers["ratelimit"])["streams"]["t"]}
        }


async def test_without_limits_nothing_is_said_of_them(api, product, buyer):
    answer = await api.post(BUY, json={"productId": await product()}, headers=buyer)
    assert answer.status_code == 202
    assert not [name for name in answer.headers if name.startswith("ratelimit")]
