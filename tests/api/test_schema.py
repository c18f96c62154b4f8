"""The OpenAPI document is what the API does: requests made from it get answers that it names.

`--log-cli-level=INFO` shows what was asked and answered.
"""

import logging
import uuid
from collections import Counter

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

log = logging.getLogger(__name__)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
BOUNDED = hypothesis_settings(
    max_examples=8,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
STOCK_MAX = 100
"""More units than this only take time."""

REGISTERED = ("POST /api/auth/register", {409})
"""The cases are the same each time: the second run finds the accounts of the first."""
FOR_ADMINS = ["GET /api/admin/orders", "GET /api/admin/products/{product_id}", "PATCH /api/admin/products/{product_id}",
              "POST /api/admin/products", "POST /api/admin/products/{product_id}/pause",
              "POST /api/admin/products/{product_id}/resume", "POST /api/admin/stock"]  # fmt: skip
REFUSED = {
    "buyer": [(label, {403}) for label in FOR_ADMINS] + [REGISTERED],
    "admin": [(f"POST /api/order/{{order_id}}/{action}", {404}) for action in ("pay", "cancel")] + [REGISTERED],
}
"""What is refused although the request holds to the document; everything else succeeds at least once."""


def operations(stack):
    """Read the document of the running stack; its streams, which do not end, have tests of their own."""
    schema = schemathesis.openapi.from_url(f"{stack.base_url}/schema/openapi.json")
    schema.config.update(base_url=stack.base_url)
    found = [one.ok() for one in schema.get_all_operations()]
    return [one for one in found if not one.path.startswith("/sse/")]


def waiting_order(client, buyer, admin):
    """Make a product and an order of it that waits for its buyer; gives their ids."""
    body = {"name": "Phone", "price": "1", "stock": STOCK_MAX, "paymentMode": "by_buyer"}
    product_id = client.post("/api/admin/products", json=body, headers=admin).json()["id"]
    bought = client.post("/api/order/buy-flash", json={"productId": product_id}, headers=buyer)
    order_id = bought.json()["orderId"]
    with client.stream("GET", f"/sse/orders/{order_id}", headers=buyer) as stream:
        assert any("awaiting_payment" in line for line in stream.iter_lines())
    return {"product_id": product_id, "order_id": order_id}


def aimed(case, ids, account):
    """Let a case that holds to the document concern what exists."""
    if isinstance(case.body, dict) and case.meta.generation.mode is GenerationMode.POSITIVE:
        if "productId" in case.body:
            case.body = {**case.body, "productId": ids["product_id"]}
        if "stock" in case.body:
            case.body = {**case.body, "stock": int(case.body["stock"]) % STOCK_MAX + 1}
        if case.path.endswith("/login"):
            case.body = account
    return case


def ask(strategy, headers, ids, account):
    """Send the cases of a strategy and check each answer; gives how often each status came."""
    ran = Counter()

    @BOUNDED
    @given(case=strategy)
    def answers_as_documented(case):
        answer = aimed(case, ids, account).call(headers=headers, timeout=30)
        ran[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    answers_as_documented()
    return ran


@pytest.mark.parametrize("who", ["buyer", "admin"])
def test_answers_are_as_documented(stack, admin, buyer, who):
    headers = admin if who == "admin" else buyer
    account = {"email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}
    with httpx.Client(base_url=stack.base_url, timeout=30) as client:
        assert client.post("/api/auth/register", json={**account, "name": "Ada"}).status_code == 201
        for operation in operations(stack):
            ids = waiting_order(client, buyer, admin)
            named = {name: value for name, value in ids.items() if f"{{{name}}}" in operation.path}
            ran = ask(operation.as_strategy(GenerationMode.POSITIVE, path_parameters=named), headers, ids, account)
            if not {status for status in ran if status < 300}:
                assert (operation.label, set(ran)) in REFUSED[who]
            if operation.body or operation.query or operation.path_parameters:
                ran += ask(operation.as_strategy(GenerationMode.NEGATIVE), headers, ids, account)
            log.info("%s as %s: %s", operation.label, who, dict(sorted(ran.items())))
