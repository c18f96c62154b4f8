"""Every number that a call takes, at its bounds and far outside them: generated from the OpenAPI document."""

import json
import logging
import re
import uuid
from collections import Counter

import pytest

log = logging.getLogger(__name__)

FAR = ["-1", "1.5", "1e0", "1e308", "-1e308", "1e400", "NaN", "Infinity", "true", '"1"', "[1]", "{}", "0x1", "01", "+1",
       str(2**31), str(2**32), str(2**53 + 1), str(2**63 - 1), str(2**63), str(2**64), str(-(2**63) - 1), "9" * 400]  # fmt: skip
"""Tokens that are no number of any field, or one that only a large field takes."""

BODIES: dict[str, dict[str, object]] = {
    "POST /api/order/buy-flash": {"productId": 0, "quantity": 1},
    "POST /api/admin/stock": {"productId": 0, "stock": 5},
    "POST /api/admin/products": {"name": "Phone", "price": "1", "stock": 1, "paymentWindowS": 300, "limitPerBuyer": 1},
    "PATCH /api/admin/products/{product_id}": {"paymentWindowS": 300, "limitPerBuyer": 1},
    "POST /api/admin/products/{product_id}/stock": {"change": 1},
}
"""A body that each call takes."""


@pytest.fixture
async def document(api):
    return (await api.get("/schema/openapi.json")).json()


def resolved(document, schema):
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def bounds(document, schema):
    """Return the least, the most and whether null is taken, of a schema that takes integers; None for another."""
    choices = [resolved(document, one) for one in schema.get("anyOf", [schema])]
    numbers = [one for one in choices if one.get("type") == "integer"]
    if not numbers:
        return None
    assert {"minimum", "maximum"} <= set(numbers[0]), schema
    return numbers[0]["minimum"], numbers[0]["maximum"], any(one.get("type") == "null" for one in choices)


def tokens(least, most, *, null):
    """Return tokens of JSON, and whether each is right."""
    near = {str(least - 1), str(least), str(least + 1), str(most - 1), str(most), str(most + 1), "-0", "0"}
    for token in sorted({*near, *FAR, "null"}):
        right = re.fullmatch(r"-?(?:0|[1-9][0-9]*)", token) is not None and least <= int(token) <= most
        yield token, right or (token == "null" and null)


async def test_every_number_in_a_body_is_bounded(api, document, product, admin, database):
    asked = Counter()
    numbers = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {})
            if content:
                fields = resolved(document, content["application/json"]["schema"])["properties"]
                for name, schema in fields.items():
                    if (found := bounds(document, schema)) is not None:
                        numbers[f"{method.upper()} {path}", name] = found
    assert {call for call, _ in numbers} == set(BODIES)
    for (call, name), (least, most, null) in numbers.items():
        product_id = await product(stock=10)
        for token, right in tokens(least, most, null=null):
            method, path = call.replace("{product_id}", str(product_id)).split(" ")
            body = {**BODIES[call]}
            if "productId" in body:
                body["productId"] = product_id
            body[name] = "TOKEN"
            content = json.dumps(body).replace('"TOKEN"', token)
            headers = {**admin, "Content-Type": "application/json"}
            before = await database.fetchrow("SELECT * FROM products WHERE product_id = $1", product_id)
            answer = await api.request(method, path, content=content, headers=headers)
            asked[call] += 1
            where = f"{call}: {name} = {token}: {answer.text}"
            if right:
                assert answer.status_code in {200, 201, 202, 404, 409} or "at most" in answer.text, where
            else:
                assert answer.status_code == 400, where
                said = answer.json()
                assert "is not JSON" in said["detail"] or name in said["detail"] or "out of range" in said["detail"], (
                    where
                )
                assert await database.fetchrow("SELECT * FROM products WHERE product_id = $1", product_id) == before
    log.info("%s", dict(asked))


async def test_every_number_in_a_path_or_query_is_bounded(api, document, product, admin):
    product_id = await product()
    asked = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for parameter in operation.get("parameters", []):
                if (found := bounds(document, parameter["schema"])) is None:
                    continue
                least, most, _ = found
                for token, right in tokens(least, most, null=False):
                    body = BODIES.get(f"{method.upper()} {path}")
                    if path.endswith("/paid"):
                        body = {"reference": "transfer 1"}
                    inside, name = parameter["in"] == "path", parameter["name"]
                    target = path.replace(f"{{{name}}}", token) if inside else path
                    for other, value in {"product_id": product_id, "order_id": uuid.uuid4()}.items():
                        target = target.replace(f"{{{other}}}", str(value))
                    request = {"params": {} if inside else {name: token}, "headers": admin, "json": body}
                    async with api.stream(method.upper(), target, **request) as answer:
                        expected = (
                            {200, 404, 409} if inside and right else {200} if right else {404} if inside else {400}
                        )
                        assert answer.status_code in expected, (method, target, token)
                        assert answer.status_code < 400 or answer.headers["content-type"] == "application/problem+json"
                    asked += 1
    log.info("%d requests", asked)
    assert asked > 250
