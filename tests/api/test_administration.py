"""Administrators at the same time: conditions, relative changes, keys. With the control that goes wrong without them."""

import asyncio
import json
import uuid
from typing import Any

import pytest

from tests.support.api import BUY

CHANGES: dict[str, dict[str, Any] | None] = {
    "POST /api/admin/products": {"name": "Phone", "price": "1", "stock": 3},
    "POST /api/admin/stock": {"productId": 0, "stock": 150},
    "POST /api/admin/products/{}/stock": {"change": 50},
    "PATCH /api/admin/products/{}": {"name": "renamed"},
    "POST /api/admin/products/{}/pause": None,
    "POST /api/admin/products/{}/resume": None,
    "POST /api/admin/products/{}/close": None,
}


def request_of(api, change, product_id, headers, **other):
    method, path = change.format(product_id).split(" ")
    body = CHANGES[change] if "body" not in other else other["body"]
    if body is not None and "productId" in body:
        body = {**body, "productId": product_id}
    return api.request(method, path, json=body, headers=headers)


async def looked(api, product_id, admin):
    answer = await api.get(f"/api/admin/products/{product_id}", headers=admin)
    return answer.headers["etag"], answer.json()


async def test_two_administrators_who_add_fifty_each_add_a_hundred(api, product, admin):
    product_id = await product(stock=100)
    answers = await asyncio.gather(
        *(request_of(api, "POST /api/admin/products/{}/stock", product_id, admin) for _ in range(2))
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    _, now = await looked(api, product_id, admin)
    assert (now["allotment"], now["stock"]) == (200, 200)


async def test_control_two_who_set_what_they_counted_lose_fifty(api, product, admin):
    product_id = await product(stock=100)
    seen = [(await looked(api, product_id, admin))[1]["allotment"] for _ in range(2)]
    for allotment in seen:
        await api.post("/api/admin/stock", json={"productId": product_id, "stock": allotment + 50}, headers=admin)
    assert (await looked(api, product_id, admin))[1]["allotment"] == 150


async def test_many_changes_of_a_stock_while_it_sells_lose_nothing(api, product, admin, buyers):
    product_id = await product(stock=20)
    changes = [50, -5, 7, -12, 1, 1, -2, 10]
    sold = [api.post(BUY, json={"productId": product_id}, headers=next(buyers)) for _ in range(6)]
    changed = [
        request_of(api, "POST /api/admin/products/{}/stock", product_id, admin, body={"change": change})
        for change in changes
    ]
    answers = await asyncio.gather(*sold, *changed)
    made = sum(
        change for change, answer in zip(changes, answers[len(sold) :], strict=True) if answer.status_code == 200
    )
    bought = sum(answer.status_code == 202 for answer in answers[: len(sold)])
    _, now = await looked(api, product_id, admin)
    assert (now["allotment"], now["stock"]) == (20 + made, 20 + made - bought)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [(-11, 409, "allotment_below_claimed"), (-10, 200, None), (0, 200, None), (10_000_000, 400, "invalid_input"),
     (9_999_990, 200, None), (9_999_991, 400, "invalid_input")],
)  # fmt: skip
async def test_a_stock_stays_between_what_orders_hold_and_the_most(api, product, admin, change, status, code):
    product_id = await product(stock=10)
    before = await looked(api, product_id, admin)
    body = {"change": change}
    answer = await request_of(api, "POST /api/admin/products/{}/stock", product_id, admin, body=body)
    assert (answer.status_code, answer.json().get("code")) == (status, code)
    if status != 200:
        assert (await looked(api, product_id, admin))[1]["allotment"] == before[1]["allotment"]


async def test_what_somebody_changed_is_not_overwritten(api, product, admin):
    product_id = await product()
    path = f"/api/admin/products/{product_id}"
    tag, _ = await looked(api, product_id, admin)
    answers = await asyncio.gather(
        *(api.patch(path, json={"name": f"n{n}"}, headers={**admin, "If-Match": tag}) for n in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    assert {answer.json()["code"] for answer in answers if answer.status_code == 412} == {"stale"}
    (won,) = [answer for answer in answers if answer.status_code == 200]
    assert (await looked(api, product_id, admin))[1]["name"] == won.json()["name"]
    again = await api.patch(path, json={"name": "next"}, headers={**admin, "If-Match": won.headers["etag"]})
    assert again.status_code == 200, "the answer's tag is the next one's condition"


async def test_control_without_a_condition_all_of_them_overwrite(api, product, admin):
    path = f"/api/admin/products/{await product()}"
    answers = await asyncio.gather(*(api.patch(path, json={"name": f"n{n}"}, headers=admin) for n in range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8


@pytest.mark.parametrize("change", [one for one in CHANGES if "PATCH" in one or one.endswith(("pause", "resume"))])
async def test_a_condition_holds_as_rfc_9110_says(api, product, admin, change):
    product_id = await product()
    for form, status in (
        ("{tag}", 200), ('"x", {tag}', 200), ("{tag},", 200), ("*", 200), ("W/{tag}", 412), ('"x"', 412), ('""', 412),
        ('"x", "y"', 412), ('"ffffffffffffffff-0000000000000000"', 412), ("{tag} x", 400), ("x", 400), ("{bare}", 400),
    ):  # fmt: skip
        tag, before = await looked(api, product_id, admin)
        headers = {**admin, "If-Match": form.format(tag=tag, bare=tag.strip('"'))}
        answer = await request_of(api, change, product_id, headers)
        assert answer.status_code == status, (form, answer.text)
        if status != 200:
            assert (await looked(api, product_id, admin))[1]["updatedAt"] == before["updatedAt"]
    assert (await request_of(api, change, 2_147_483_647, {**admin, "If-Match": "*"})).status_code == 404


async def test_a_unit_that_is_sold_changes_the_tag_and_no_terms(api, product, admin, buyer):
    product_id = await product()
    tag, _ = await looked(api, product_id, admin)
    await api.post(BUY, json={"productId": product_id}, headers=buyer)
    async with asyncio.timeout(60):
        while (now := (await looked(api, product_id, admin))[0]) == tag:
            await asyncio.sleep(0.02)
    assert now != tag
    answer = await api.patch(
        f"/api/admin/products/{product_id}", json={"name": "x"}, headers={**admin, "If-Match": tag}
    )
    assert answer.status_code == 200, "a sale goes on while its terms are edited"


def keyed(admin, key):
    return {**admin, "Idempotency-Key": key}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_repeated_key_changes_nothing_more_and_gets_the_first_answer(api, product, admin, database, change):
    product_id, key = await product(stock=100), uuid.uuid4().hex
    first = await request_of(api, change, product_id, keyed(admin, key))
    assert first.status_code in {200, 201}
    await api.patch(f"/api/admin/products/{product_id}", json={"name": "meanwhile"}, headers=admin)
    # The gate of an older product may be loaded meanwhile, which changes the product's epoch.
    ours = "SELECT * FROM products WHERE product_id >= $1 ORDER BY product_id"
    products = await database.fetch(ours, product_id)
    # The key bare and as a string; JSON with its fields in another order, and blanks, is the same request.
    for sent in (key, f'"{key}"'):
        body = CHANGES[change] and dict(reversed(CHANGES[change].items()))
        again = await request_of(api, change, product_id, keyed(admin, sent), body=body)
        same = ("etag", "location", "content-type")
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert [again.headers.get(name) for name in same] == [first.headers.get(name) for name in same]
    assert await database.fetch(ours, product_id) == products
    for other in CHANGES:
        if other != change:
            refused = await request_of(api, other, product_id, keyed(admin, key))
            assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused"), other
    plain = CHANGES[change]
    if plain is not None:
        body = {**plain, **{name: 7 for name in ("stock", "change") if name in plain}}
        body |= {"name": "other"} if "name" in body else {}
        refused = await request_of(api, change, product_id, keyed(admin, key), body=body)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert await database.fetch(ours, product_id) == products


@pytest.mark.parametrize("change", ["POST /api/admin/products", "POST /api/admin/products/{}/stock"])
async def test_requests_under_one_key_that_race_are_one(api, product, admin, database, change):
    product_id, key = await product(stock=100), uuid.uuid4().hex
    count = "SELECT count(*), sum(allotment) FROM products"
    before = await database.fetchrow(count)
    answers = await asyncio.gather(*(request_of(api, change, product_id, keyed(admin, key)) for _ in range(12)))
    assert len({(answer.status_code, answer.content, answer.headers["etag"]) for answer in answers}) == 1
    after = await database.fetchrow(count)
    created = change == "POST /api/admin/products"
    assert (after[0] - before[0], after[1] - before[1]) == ((1, 3) if created else (0, 50))


async def test_control_without_a_key_each_of_them_is_carried_out(api, product, admin, database):
    product_id = await product(stock=100)
    await asyncio.gather(*(request_of(api, "POST /api/admin/products/{}/stock", product_id, admin) for _ in range(4)))
    assert (await looked(api, product_id, admin))[1]["allotment"] == 300


async def test_an_answer_that_was_lost_with_its_process_is_made_again_and_the_change_is_not(
    api, product, admin, database
):
    product_id, key = await product(stock=100), uuid.uuid4().hex
    change = "POST /api/admin/products/{}/stock"
    first = await request_of(api, change, product_id, keyed(admin, key))
    await database.execute("UPDATE admin_requests SET status = NULL, tag = NULL, body = NULL WHERE key = $1", key)
    again = await request_of(api, change, product_id, keyed(admin, key))
    assert again.status_code == first.status_code
    assert (await looked(api, product_id, admin))[1]["allotment"] == 150


async def test_a_refusal_is_not_kept(api, product, admin, buyer, database):
    product_id, key = await product(stock=10), uuid.uuid4().hex
    body = {"change": -11}
    change = "POST /api/admin/products/{}/stock"
    refused = await request_of(api, change, product_id, keyed(admin, key), body=body)
    assert refused.status_code == 409
    stale = await request_of(api, "PATCH /api/admin/products/{}", product_id, {**keyed(admin, key), "If-Match": '"x"'})
    assert stale.status_code == 412
    assert (await request_of(api, "PATCH /api/admin/products/{}", 2_147_483_647, keyed(admin, key))).status_code == 404
    assert await database.fetchval("SELECT count(*) FROM admin_requests WHERE key = $1", key) == 0
    assert (await request_of(api, change, product_id, keyed(admin, key))).status_code == 200


async def test_a_repetition_of_a_change_with_a_condition_is_no_conflict_with_itself(api, product, admin):
    product_id = await product()
    tag, _ = await looked(api, product_id, admin)
    headers = {**keyed(admin, uuid.uuid4().hex), "If-Match": tag}
    answers = [await request_of(api, "PATCH /api/admin/products/{}", product_id, headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert json.loads(answers[0].content) == json.loads(answers[1].content)


@pytest.mark.parametrize("key", ['"', '"a', '""', "x" * 256, '"a";', '"a"b'])
async def test_a_bad_key_is_refused_before_anything_is_changed(api, product, admin, key):
    product_id = await product()
    before = await looked(api, product_id, admin)
    for change in CHANGES:
        answer = await request_of(api, change, product_id, keyed(admin, key))
        assert (answer.status_code, answer.json()["field"]) == (400, "Idempotency-Key"), change
    assert await looked(api, product_id, admin) == before
