"""Buy with the Python client that openapi-python-client generates; the types are checked by `mypy --strict`.

`python buyer.py BASE_URL PRODUCT_ID SOLD_OUT_ID` prints what became of it.
"""

from __future__ import annotations

import sys
import time
import uuid
from typing import TypeVar

from flashsale_client import AuthenticatedClient, Client
from flashsale_client.api.accounts import log_in, register
from flashsale_client.api.orders import buy, get_order
from flashsale_client.api.products import list_products
from flashsale_client.models import (
    BuyIn,
    BuyOut,
    LoginIn,
    OrderOut,
    OrderStatus,
    Problem,
    ProblemCode,
    RegisteredOut,
    RegisterIn,
    TokenOut,
)

T = TypeVar("T")


def good(answer: T | Problem | None) -> T:
    """Return an answer that is no problem."""
    if isinstance(answer, Problem):
        raise SystemExit(f"{answer.code}: {answer.detail}")
    if answer is None:
        raise SystemExit("an answer that the document does not name")
    return answer


def bought(client: AuthenticatedClient, wanted: BuyIn, key: str) -> BuyOut | Problem:
    """Send one buy, again under its key as long as the answer says so."""
    while True:
        answer = buy.sync_detailed(client=client, body=wanted, idempotency_key=key)
        if answer.status_code not in {429, 503}:
            return good(answer.parsed) if answer.status_code == 202 else _problem(answer.parsed)
        time.sleep(int(answer.headers["Retry-After"]))


def _problem(answer: BuyOut | Problem | None) -> Problem:
    if not isinstance(answer, Problem):
        raise SystemExit(f"no problem: {answer}")
    return answer


def main(base_url: str, product_id: int, sold_out_id: int) -> None:
    """Register, log in, look, buy, wait; then be told that another product is sold out."""
    everybody = Client(base_url=base_url, raise_on_unexpected_status=True)
    email, password = f"{uuid.uuid4().hex}@example.com", uuid.uuid4().hex
    registered: RegisteredOut = good(
        register.sync(client=everybody, body=RegisterIn(name="Ada", email=email, password=password))
    )
    token: TokenOut = good(log_in.sync(client=everybody, body=LoginIn(email=email, password=password)))
    shown = {product.id: product for product in good(list_products.sync(client=everybody))}
    client = AuthenticatedClient(base_url=base_url, token=token.token, raise_on_unexpected_status=True)

    key = uuid.uuid4().hex
    accepted = good(bought(client, BuyIn(product_id=product_id), key))
    again = good(bought(client, BuyIn(product_id=product_id), key))
    order: OrderOut = good(get_order.sync(accepted.order_id, client=client))
    while order.status is not OrderStatus.CONFIRMED:
        time.sleep(0.05)
        order = good(get_order.sync(accepted.order_id, client=client))
    refused = bought(client, BuyIn(product_id=sold_out_id), uuid.uuid4().hex)
    if not isinstance(refused, Problem) or refused.code is not ProblemCode.SOLD_OUT:
        raise SystemExit(f"sold out, but: {refused}")
    same = again.order_id == accepted.order_id and order.user_id == registered.user.id
    print(order.status, shown[product_id].name, order.total_price, refused.code, same)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
