"""Orders: buy, look, pay, cancel, and a token for the order's stream."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from litestar import Request, post
from litestar.params import FromPath

from flashsale.domain.errors import FlashSaleError, InvalidInput
from flashsale.domain.requests import BuyRequest, check_key
from flashsale.http.answers import rendered
from flashsale.http.auth import UseTokens
from flashsale.http.bodies import decode, read_body
from flashsale.http.edge import Direct
from flashsale.http.problems import NO_SUCH_PATH
from flashsale.http.schemas import BuyIn, OrderOut, StreamTokenOut, buy_out, order_out
from flashsale.http.services import UseServices

if TYPE_CHECKING:
    from litestar.types import Receive, Scope

    from flashsale.http.answers import Answer
    from flashsale.http.auth import Tokens
    from flashsale.http.metrics import Meter
    from flashsale.http.services import ApiServices

BUY_PATH = "/api/order/buy-flash"
STATUS_TEMPLATE = "/api/order/{order_id}/status"
_ORDER_ID_AT = STATUS_TEMPLATE.split("/").index("{order_id}")

_buy_in = msgspec.json.Decoder(BuyIn)
_encode = msgspec.json.Encoder().encode


def direct_routes(services: ApiServices, tokens: Tokens, meter: Meter, *, body_bytes_max: int) -> list[Direct]:
    """Make the routes that nearly all of a sale's requests take: buy, and look at an order."""

    async def buy(scope: Scope, receive: Receive) -> Answer:
        try:
            authorization, length, keys = _headers(scope)
            principal = tokens.bearer(authorization)
            body = await read_body(receive, length, limit=body_bytes_max)
            wanted = decode(_buy_in, body, what="a buy")
            accepted = await services.buy(
                BuyRequest(
                    user_id=principal.user_id,
                    product_id=wanted.product_id,
                    quantity=wanted.quantity,
                    key=_key(keys, wanted.request_id),
                )
            )
        except FlashSaleError as error:
            meter.count_buy(error.code)
            raise
        meter.count_buy("accepted")
        answer = buy_out(accepted)
        location = (b"location", answer.check_status_url.encode())
        return rendered(HTTPStatus.ACCEPTED, _encode(answer), location)

    async def status(scope: Scope, _: Receive) -> Answer:
        order_id = _order_id(scope["path"])
        if order_id is None:
            return NO_SUCH_PATH
        order = await services.orders.get(order_id, tokens.principal(scope))
        return rendered(HTTPStatus.OK, _encode(order_out(order)))

    return [Direct(BUY_PATH, "POST", buy), Direct(STATUS_TEMPLATE, "GET", status)]


def _headers(scope: Scope) -> tuple[bytes | None, bytes | None, list[bytes]]:
    """Give Authorization, Content-Length and every Idempotency-Key, in one walk."""
    authorization = length = None
    keys = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = authorization or value
        elif name == b"idempotency-key":
            keys.append(value)
        elif name == b"content-length":
            length = value
    return authorization, length, keys


def _order_id(path: str) -> UUID | None:
    try:
        return UUID(path.split("/")[_ORDER_ID_AT])
    except ValueError:
        return None


def _key(sent: list[bytes], request_id: str | None) -> str | None:
    if not sent:
        return None if request_id is None else check_key(request_id)
    if len(sent) > 1:
        raise InvalidInput(field="Idempotency-Key", problem="was sent twice")
    header = sent[0].decode("latin-1")
    if request_id is not None and header != request_id:
        raise InvalidInput(field="requestId", problem="differs from the header Idempotency-Key")
    return check_key(header)


@post("/api/order/{order_id:uuid}/pay", status_code=202, summary="Pay an order that waits for it", tags=["orders"])
async def pay(
    request: Request[Any, Any, Any], order_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> OrderOut:
    """Ask for the payment of a `by_buyer` order; repeating it changes nothing."""
    return order_out(await services.orders.pay(order_id, tokens.principal(request.scope)))


@post("/api/order/{order_id:uuid}/cancel", status_code=200, summary="Cancel before paying", tags=["orders"])
async def cancel(
    request: Request[Any, Any, Any], order_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> OrderOut:
    """Give up an order that waits for payment; its units go back."""
    return order_out(await services.orders.cancel(order_id, tokens.principal(request.scope)))


@post("/api/order/{order_id:uuid}/stream-token", status_code=201, summary="Token for EventSource", tags=["orders"])
async def stream_token(
    request: Request[Any, Any, Any], order_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> StreamTokenOut:
    """Make a token that opens this order's stream: `/sse/orders/{id}?token=...`."""
    principal = tokens.principal(request.scope)
    await services.orders.get(order_id, principal)
    token, expires_at = tokens.issue_stream(principal, order_id)
    return StreamTokenOut(token=token, expires_at=datetime.fromtimestamp(expires_at, UTC))
