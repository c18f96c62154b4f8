import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.api import final

BUY = "/api/order/buy-flash"


def problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document["detail"]
    return document


async def test_register_log_in_look_buy_and_follow(api, product):
    product_id = await product()
    email = f"{uuid.uuid4().hex}@Example.com"
    account = {"name": "Ada", "email": email, "password": "correct horse"}
    registered = await api.post("/api/auth/register", json=account)
    assert registered.status_code == 201
    assert registered.json()["user"]["role"] == "buyer"
    problem(await api.post("/api/auth/register", json={**account, "email": email.upper()}), 409, "email_taken")
    login = {"email": email, "password": account["password"]}
    token = (await api.post("/api/auth/login", json=login)).json()["token"]
    problem(await api.post("/api/auth/login", json={**login, "password": "wrong"}), 401, "bad_credentials")
    problem(await api.post("/api/auth/login", json={**login, "email": "no@body.example"}), 401, "bad_credentials")

    shown = (await api.get(f"/api/products/{product_id}")).json()
    assert (shown["price"], shown["stock"], shown["currency"]) == ("999.99", 10, "USD")
    assert product_id in {one["id"] for one in (await api.get("/api/products")).json()}

    headers = {"Authorization": f"Bearer {token}"}
    bought = await api.post(BUY, json={"productId": product_id, "quantity": 2}, headers=headers)
    assert bought.status_code == 202
    body = bought.json()
    assert body["status"] == "queued"
    assert bought.headers["location"] == body["checkStatusUrl"]
    assert body["product"] == {"id": product_id, "name": "Phone", "price": "999.99", "currency": "USD", "quantity": 2}
    assert await final(api, body["orderId"], headers) == "confirmed"
    status = (await api.get(body["checkStatusUrl"], headers=headers)).json()
    assert (status["totalPrice"], status["success"]) == ("1999.98", True)


async def test_a_repeated_key_gets_the_same_answer_byte_for_byte(api, product, buyer):
    product_id = await product(stock=1)
    headers = {**buyer, "Idempotency-Key": "k"}
    first = await api.post(BUY, json={"productId": product_id}, headers=headers)
    repeats = await asyncio.gather(*(api.post(BUY, json={"productId": product_id}, headers=headers) for _ in range(20)))
    assert {(answer.status_code, answer.content) for answer in repeats} == {(202, first.content)}
    in_body = await api.post(BUY, json={"productId": product_id, "requestId": "k"}, headers=buyer)
    assert in_body.content == first.content
    problem(
        await api.post(BUY, json={"productId": product_id, "quantity": 2}, headers=headers),
        422,
        "idempotency_key_reused",
    )
    problem(await api.post(BUY, json={"productId": product_id}, headers=buyer), 409, "sold_out")


async def test_repeats_that_race_make_one_order(api, product, buyer):
    product_id = await product()
    headers = {**buyer, "Idempotency-Key": "race"}
    answers = await asyncio.gather(*(api.post(BUY, json={"productId": product_id}, headers=headers) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_input"),
        (b"{", 400, "invalid_input"),
        (b"\xff\xfe", 400, "invalid_input"),
        (b"[]", 400, "invalid_input"),
        (b"{}", 400, "invalid_input"),
        (b'{"productId":"1"}', 400, "invalid_input"),
        (b'{"productId":1.5}', 400, "invalid_input"),
        (b'{"productId":0}', 400, "invalid_input"),
        (b'{"productId":99999999999}', 400, "invalid_input"),
        (b'{"productId":2147483647}', 404, "product_not_found"),
        (b'{"productId":PRODUCT,"quantity":0}', 400, "invalid_input"),
        (b'{"productId":PRODUCT,"quantity":-1}', 400, "invalid_input"),
        (b'{"productId":PRODUCT,"quantity":101}', 400, "invalid_input"),
        (b'{"productId":PRODUCT,"quantity":true}', 400, "invalid_input"),
        (b'{"productId":PRODUCT,"price":"0.01"}', 400, "invalid_input"),
        (b'{"productId":PRODUCT,"requestId":""}', 400, "invalid_input"),
        (b'{"productId":PRODUCT,"requestId":"a\\u0000b"}', 400, "invalid_input"),
        (b'{"productId":PRODUCT,"requestId":"' + b"x" * 256 + b'"}', 400, "invalid_input"),
        (b'{"productId":PRODUCT,"quantity":11}', 409, "sold_out"),
        (b" " * 20_000, 413, "body_too_large"),
    ],
)
async def test_a_bad_buy_is_a_clear_problem_and_changes_nothing(api, product, buyer, database, body, status, code):
    product_id = await product()
    body = body.replace(b"PRODUCT", str(product_id).encode())
    problem(await api.post(BUY, content=body, headers=buyer), status, code)
    assert await database.fetchval("SELECT free FROM product_live WHERE product_id = $1", product_id) == 10
    assert await database.fetchval("SELECT count(*) FROM orders WHERE product_id = $1", product_id) == 0


async def test_two_keys_in_one_request_must_be_one(api, product, buyer):
    product_id = await product()
    headers = {**buyer, "Idempotency-Key": "a"}
    problem(
        await api.post(BUY, json={"productId": product_id, "requestId": "b"}, headers=headers), 400, "invalid_input"
    )


async def test_only_post_buys(api):
    answer = await api.get(BUY)
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "OPTIONS, POST"


async def test_a_buy_needs_a_token_that_holds(api, product, stack):
    product_id = await product()
    claims = {"sub": str(uuid.uuid4()), "role": "buyer", "use": "login", "iss": "flashsale", "aud": "flashsale-api"}
    key = stack.secrets["jwt_secret"]
    past, future = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
    tokens = [
        None,
        "nonsense",
        jwt.encode({**claims, "iat": past, "exp": past}, key, algorithm="HS256"),
        jwt.encode({**claims, "iat": past, "exp": future}, "another key" * 5, algorithm="HS256"),
        jwt.encode({**claims, "iat": past, "exp": future}, key * 2, algorithm="HS512"),
    ]
    for token in tokens:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = await api.post(BUY, json={"productId": product_id}, headers=headers)
        problem(answer, 401, "unauthenticated")
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith('Bearer realm="flashsale"')
        assert ('error="invalid_token"' in challenge) == (token is not None)
    nobody = jwt.encode({**claims, "iat": past, "exp": future}, key, algorithm="HS256")
    answer = await api.post(BUY, json={"productId": product_id}, headers={"Authorization": f"Bearer {nobody}"})
    problem(answer, 401, "unauthenticated")


async def test_a_sale_that_is_not_open_accepts_nothing(api, product, buyer, admin):
    later, before = (datetime.now(UTC) + timedelta(hours=h) for h in (1, -1))
    not_yet = await product(startsAt=later.isoformat())
    refused = await api.post(BUY, json={"productId": not_yet}, headers=buyer)
    problem(refused, 409, "sale_not_started")
    assert datetime.fromisoformat(refused.json()["startsAt"]) == later
    over = await product(startsAt=(before - timedelta(hours=1)).isoformat(), endsAt=before.isoformat())
    problem(await api.post(BUY, json={"productId": over}, headers=buyer), 409, "sale_ended")
    paused = await product()
    kept = await api.post(BUY, json={"productId": paused}, headers={**buyer, "Idempotency-Key": "p"})
    assert (await api.post(f"/api/admin/products/{paused}/pause", headers=admin)).json()["paused"] is True
    problem(await api.post(BUY, json={"productId": paused}, headers=buyer), 409, "sale_paused")
    again = await api.post(BUY, json={"productId": paused}, headers={**buyer, "Idempotency-Key": "p"})
    assert again.content == kept.content
    await api.post(f"/api/admin/products/{paused}/resume", headers=admin)
    for _ in range(3000):
        answer = await api.post(BUY, json={"productId": paused}, headers=buyer)
        if answer.status_code == 202:
            break
        await asyncio.sleep(0.02)
    assert answer.status_code == 202


async def test_the_limit_per_buyer(api, product, buyer):
    product_id = await product(limitPerBuyer=2)
    answers = await asyncio.gather(*(api.post(BUY, json={"productId": product_id}, headers=buyer) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [202] * 2 + [409] * 8
    problem(await api.post(BUY, json={"productId": product_id}, headers=buyer), 409, "limit_reached")


async def test_an_order_is_its_owners(api, product, buyers, admin):
    owner, other = next(buyers), next(buyers)
    bought = (await api.post(BUY, json={"productId": await product()}, headers=owner)).json()
    path = f"/api/order/{bought['orderId']}"
    for headers, status in ((owner, 200), (admin, 200), (other, 404), ({}, 401)):
        assert (await api.get(f"{path}/status", headers=headers)).status_code == status
    for action in ("pay", "cancel", "stream-token"):
        problem(await api.post(f"{path}/{action}", headers=other), 404, "order_not_found")
        problem(await api.post(f"{path}/{action}"), 401, "unauthenticated")
    assert (await api.get(f"/sse/orders/{bought['orderId']}", headers=other)).status_code == 404
    assert (await api.get(f"/sse/orders/{bought['orderId']}")).status_code == 401
    problem(await api.get(f"/api/order/{uuid.uuid4()}/status", headers=owner), 404, "order_not_found")
    assert (await api.get("/api/order/nonsense/status", headers=owner)).status_code == 404


async def test_a_buyer_pays_or_cancels(api, product, buyers):
    product_id = await product(paymentMode="by_buyer")
    for action, status, code in (("pay", "confirmed", 202), ("cancel", "cancelled", 200)):
        headers = next(buyers)
        order_id = (await api.post(BUY, json={"productId": product_id}, headers=headers)).json()["orderId"]
        for _ in range(1200):
            if (await api.get(f"/api/order/{order_id}/status", headers=headers)).json()["status"] == "awaiting_payment":
                break
            await asyncio.sleep(0.05)
        assert (await api.post(f"/api/order/{order_id}/{action}", headers=headers)).status_code == code
        assert await final(api, order_id, headers) == status
        other = "cancel" if action == "pay" else "pay"
        problem(await api.post(f"/api/order/{order_id}/{other}", headers=headers), 409, "order_state_forbids")


async def test_unpaid_orders_expire_by_themselves(api, product, buyer):
    product_id = await product(paymentMode="by_buyer", paymentWindowS=1, stock=1)
    order_id = (await api.post(BUY, json={"productId": product_id}, headers=buyer)).json()["orderId"]
    assert await final(api, order_id, buyer) == "expired"
    for _ in range(1200):
        if (await api.get(f"/api/products/{product_id}")).json()["stock"] == 1:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the unit did not come back")


async def test_administration_is_for_administrators(api, product, buyer, admin):
    product_id = await product()
    calls = [
        ("POST", "/api/admin/stock", {"productId": product_id, "stock": 5}),
        ("POST", "/api/admin/products", {"name": "x", "price": "1", "stock": 1}),
        ("PATCH", f"/api/admin/products/{product_id}", {"name": "x"}),
        ("GET", f"/api/admin/products/{product_id}", None),
        ("POST", f"/api/admin/products/{product_id}/pause", None),
        ("GET", "/api/admin/orders", None),
    ]
    for method, path, body in calls:
        problem(await api.request(method, path, json=body), 401, "unauthenticated")
        problem(await api.request(method, path, json=body, headers=buyer), 403, "forbidden")
        assert (await api.request(method, path, json=body, headers=admin)).is_success


async def test_the_allotment_can_be_raised_and_lowered_in_mid_sale(api, product, buyer, admin):
    product_id = await product(stock=2)
    await api.post(BUY, json={"productId": product_id, "quantity": 2}, headers=buyer)
    problem(
        await api.post("/api/admin/stock", json={"productId": product_id, "stock": 1}, headers=admin),
        409,
        "allotment_below_claimed",
    )
    for _ in range(2):
        answer = await api.post("/api/admin/stock", json={"productId": product_id, "stock": 3}, headers=admin)
        assert (answer.status_code, answer.json()["stock"], answer.json()["allotment"]) == (200, 1, 3)
    assert (await api.post(BUY, json={"productId": product_id}, headers=buyer)).status_code == 202
    problem(
        await api.post("/api/admin/stock", json={"productId": 2**31 - 1, "stock": 3}, headers=admin),
        404,
        "product_not_found",
    )


@pytest.mark.parametrize(
    "change",
    [{"price": "free"}, {"price": "-1"}, {"stock": -1}, {"stock": 10**7 + 1}, {"name": ""}, {"name": "a\x00b"},
     {"currency": "dollars"}, {"limitPerBuyer": 0}, {"paymentMode": "cash"}, {"unknown": 1},
     {"startsAt": "2030-01-02T00:00:00Z", "endsAt": "2030-01-01T00:00:00Z"}, {"startsAt": "2030-01-02T00:00:00"}],
)  # fmt: skip
async def test_a_bad_product_is_a_clear_problem(api, admin, change):
    answer = await api.post(
        "/api/admin/products", json={"name": "x", "price": "1", "stock": 1, **change}, headers=admin
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ({}, "name"),
        ({"name": "x"}, "email"),
        ({"name": "x", "email": "no@body", "password": "long enough"}, "email"),
        ({"name": "x", "email": "a@b.c", "password": "short"}, "password"),
        ({"name": "x", "email": "a@b.c", "password": 1}, "password"),
        ({"name": "x", "email": "a@b.c", "password": "long enough", "role": "admin"}, "role"),
    ],
)
async def test_a_bad_registration_is_a_clear_problem(api, body, field):
    document = problem(await api.post("/api/auth/register", json=body), 400, "invalid_input")
    assert document["field"] == field
    assert document["detail"].startswith(field)


@pytest.mark.parametrize("path", ["/api/auth/register", "/api/auth/login"])
async def test_only_a_post_of_some_length_registers_or_logs_in(api, path):
    answer = await api.get(path)
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "OPTIONS, POST"
    problem(await api.post(path, content=b" " * 20_000), 413, "body_too_large")
    problem(await api.post(path, content=b"{", headers={"Content-Type": "application/json"}), 400, "invalid_input")
    # What a page of another site can send without being asked first.
    for kind in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "text/plain, application/json"}):
        problem(await api.post(path, content=b"{}", headers=kind), 415, "unsupported_media_type")


async def test_unknown_paths_and_big_bodies_are_problems(api, admin):
    problem(await api.get("/api/nothing"), 404, "no_such_path")
    problem(await api.delete("/api/products"), 405, "method_not_allowed")
    answer = await api.post("/api/admin/products", content=b"x" * 20_000, headers=admin)
    assert answer.status_code in (400, 413)


@pytest.mark.parametrize("product_id", [2**31, 2**70])
async def test_a_product_id_that_no_database_takes_is_an_unknown_product(api, admin, product_id):
    path = f"/api/admin/products/{product_id}"
    problem(await api.get(path, headers=admin), 404, "product_not_found")
    problem(await api.patch(path, json={"name": "x"}, headers=admin), 404, "product_not_found")
    for action in ("pause", "resume"):
        problem(await api.post(f"{path}/{action}", headers=admin), 404, "product_not_found")


@pytest.mark.parametrize(
    "change",
    [{"endsAt": "9999-12-31T23:59:59-23:59"}, {"endsAt": "9999-12-31T23:59:59.999999Z"},
     {"startsAt": "0001-01-01T00:00:00+23:59"}, {"startsAt": "0001-01-01T00:00:00Z"}],
)  # fmt: skip
async def test_an_instant_that_no_database_takes_is_a_clear_problem(api, admin, product, change):
    body = {"name": "x", "price": "1", "stock": 1, **change}
    path = f"/api/admin/products/{await product()}"
    for answer in (
        await api.post("/api/admin/products", json=body, headers=admin),
        await api.patch(path, json=change, headers=admin),
    ):
        problem(answer, 400, "invalid_input")
        assert answer.json()["field"] == next(iter(change))


@pytest.mark.parametrize("edge", [{"endsAt": "9998-12-31T23:59:59Z"}, {"startsAt": "1970-01-01T00:00:00Z"}])
async def test_the_first_and_the_last_instant_are_taken(api, admin, product, edge):
    answer = await api.patch(f"/api/admin/products/{await product()}", json=edge, headers=admin)
    assert answer.status_code == 200, answer.text
    name, value = next(iter(edge.items()))
    assert answer.json()[name] == value


async def test_a_body_that_is_not_utf_8_is_the_callers_error(api, admin, buyer):
    body = b'{"email": "\xff", "password": "long enough"}'
    headers = {"Content-Type": "application/json"}
    problem(await api.post("/api/auth/login", content=body, headers=headers), 400, "invalid_input")
    problem(await api.post("/api/admin/products", content=body, headers=headers | admin), 400, "invalid_request")
    problem(await api.post(BUY, content=b'{"productId": "\xff"}', headers=buyer), 400, "invalid_input")


async def test_a_problem_names_fields_as_the_caller_sent_them(api, admin):
    answer = await api.get("/api/admin/orders", params={"productId": 0}, headers=admin)
    assert [error["field"] for error in answer.json()["errors"]] == ["productId"]
    answer = await api.post("/api/admin/products", headers=admin)
    assert answer.json()["errors"] == [{"field": "body", "problem": "is missing"}]


async def test_a_password_with_a_nul_is_refused(api):
    body = {"name": "x", "email": f"{uuid.uuid4().hex}@example.com", "password": "long\x00enough"}
    problem(await api.post("/api/auth/register", json=body), 400, "invalid_input")


async def test_every_answer_carries_a_request_id(api, product, buyer):
    named = {"X-Request-ID": "shop-42"}
    assert (await api.get("/api/products", headers=named)).headers["x-request-id"] == "shop-42"
    assert (await api.get("/api/nothing", headers=named)).headers["x-request-id"] == "shop-42"
    body = {"productId": await product()}
    first = await api.post(BUY, json=body, headers={**buyer, "Idempotency-Key": "k", **named})
    again = await api.post(BUY, json=body, headers={**buyer, "Idempotency-Key": "k"})
    assert first.headers["x-request-id"] == "shop-42" != again.headers["x-request-id"]
    assert (first.status_code, first.content) == (again.status_code, again.content), "the body is the same all the same"


async def test_health_says_what_is(api, product):
    await product()
    assert (await api.get("/health/live")).json() == {"live": True}
    for _ in range(1200):
        health = (await api.get("/health/ready")).json()
        if health["gate"] == "loaded":
            break
        await asyncio.sleep(0.05)
    assert health == {"ready": True, "postgres": True, "listening": True, "gate": "loaded", "notes": []}


async def test_metrics_count_the_processes_of_a_port_together_and_forget_those_that_are_gone(
    api, stack, product, buyer
):
    openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
    await api.post(BUY, json={"productId": await product()}, headers=buyer)

    async def page(role):
        answer = await api.get(f"{stack.url(role)}/metrics", headers=openmetrics)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        families = text_string_to_metric_families(answer.text)
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value for one in families for sample in one.samples
        }

    found = await page("api")
    assert found["flashsale_http_requests_total", "/api/order/buy-flash", "202"] >= 1
    assert found["flashsale_buys_total", "accepted"] >= 1
    assert found["flashsale_gate_answers_total", "bypass"] >= 0, "an answer that was never given is 0"
    for role in ("api", "orders"):
        if role == "orders":
            await stack.kill(role)
            await stack.start_child(role, 0)
        alive = {str(child.pid) for child in stack.children[role]}
        measured = {key[1] for key in await page(role) if key[0] == "flashsale_event_loop_lag_seconds"}
        assert measured == alive


async def test_connections_are_kept_alive_over_refusals(api, product, buyer):
    product_id = await product(stock=0)
    async with httpx.AsyncClient(base_url=api.base_url, limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(20):
            problem(await client.post(BUY, json={"productId": product_id}, headers=buyer), 409, "sold_out")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/admin/products/{}", b'{"limitPerBuyer":"null"}'),
        ("/api/admin/products/{}", b'{"limitPerBuyer":"1"}'),
        ("/api/admin/products/{}", b'{"startsAt":0}'),
        ("/api/admin/products/{}", b'{"endsAt":"0"}'),
        ("/api/admin/products/{}", b'{"paymentWindowS":"60"}'),
        ("/api/admin/products/{}", b"[" * 2000),
        ("/api/admin/products/{}", b'{"name":' + b"[" * 2000),
        ("/api/admin/stock", b'{"productId":PRODUCT,"stock":"1e0"}'),
        ("/api/admin/stock", b'{"productId":PRODUCT,"stock":"5"}'),
        ("/api/admin/stock", b'{"productId":"PRODUCT","stock":5}'),
        ("/api/admin/stock", b'{"productId":PRODUCT,"stock":true}'),
        ("/api/admin/products", b'{"name":"x","price":"1","stock":"1"}'),
        ("/api/admin/products", b"[" * 2000),
    ],
)
async def test_administration_takes_json_of_the_right_type_only(api, admin, product, path, body):
    product_id = await product(limitPerBuyer=2)
    before = (await api.get(f"/api/admin/products/{product_id}", headers=admin)).json()
    method = "PATCH" if "{}" in path else "POST"
    headers = {**admin, "Content-Type": "application/json"}
    body = body.replace(b"PRODUCT", str(product_id).encode())
    problem(await api.request(method, path.format(product_id), content=body, headers=headers), 400, "invalid_request")
    assert (await api.get(f"/api/admin/products/{product_id}", headers=admin)).json() == before


async def test_tokens_and_orders_are_stored_nowhere(api, buyer, product):
    bought = await api.post(BUY, json={"productId": await product()}, headers=buyer)
    order = f"/api/order/{bought.json()['orderId']}"
    account = {"email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}
    for answer in (
        bought,
        await api.get(f"{order}/status", headers=buyer),
        await api.post("/api/auth/register", json={**account, "name": "Ada"}),
        await api.post("/api/auth/login", json=account),
        await api.post(f"{order}/stream-token", headers=buyer),
    ):
        assert answer.status_code < 300, answer.text
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("spelling", ["1_0", "%2B10", "%D9%A1%D9%A0", "010", "1e1", "0x0a", "10%20"])
async def test_a_product_has_one_spelling(api, spelling):
    for path in ("/api/products/", "/sse/stock/"):
        problem(await api.get(path + spelling), 404, "no_such_path")


async def test_an_order_has_one_spelling(api, buyer, product):
    bought = await api.post(BUY, json={"productId": await product()}, headers=buyer)
    order_id = bought.json()["orderId"]
    assert (await api.get(f"/api/order/{order_id}/status", headers=buyer)).status_code == 200
    for text in (order_id.upper(), order_id.replace("-", ""), f"urn:uuid:{order_id}", "{" + order_id + "}"):
        problem(await api.get(f"/api/order/{text}/status", headers=buyer), 404, "no_such_path")


async def test_parameters_that_no_call_takes_are_refused(api, admin):
    for path in (
        "/api/products?x=1",
        "/health/live?x",
        "/api/admin/orders?limit=1&limit=2",
        "/api/admin/orders?limit=1_0",
    ):
        problem(await api.get(path, headers=admin), 400, "invalid_input")
