"""Orders: buy, look, pay, cancel, and a token for the order's stream."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from litestar import Request, asgi, get, post
from litestar.params import FromPath

from flashsale.domain.errors import FlashSaleError, InvalidInput, SoldOut
from flashsale.domain.requests import BuyRequest, check_key
from flashsale.http import metrics
from flashsale.http.auth import Tokens, UseTokens
from flashsale.http.problems import INTERNAL, SOLD_OUT, BodyTooLarge, Problem, problem_of
from flashsale.http.schemas import BuyIn, OrderOut, StreamTokenOut, buy_out, order_out
from flashsale.http.services import ApiServices, UseServices

if TYPE_CHECKING:
    from litestar.handlers import ASGIRouteHandler
    from litestar.types import Receive, Scope, Send

BUY_PATH = "/api/order/buy-flash"

_decode = msgspec.json.Decoder(BuyIn).decode
_encode = msgspec.json.Encoder().encode


def buy_route(services: ApiServices, tokens: Tokens, *, body_bytes_max: int) -> ASGIRouteHandler:
    """Make the handler of `POST /api/order/buy-flash`: plain ASGI, because nearly all of a sale's requests end here."""

    @asgi(BUY_PATH, copy_scope=False)
    async def buy(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "POST":  # type: ignore[typeddict-item]
                await METHOD_NOT_ALLOWED.send(send)
                return
            principal = tokens.principal(scope)
            wanted = _parse(await read_body(scope, receive, limit=body_bytes_max))
            accepted = await services.buy(
                BuyRequest(
                    user_id=principal.user_id,
                    product_id=wanted.product_id,
                    quantity=wanted.quantity,
                    key=_key(scope, wanted.request_id),
                )
            )
        except SoldOut:
            metrics.BUYS_SOLD_OUT.inc()
            await SOLD_OUT.send(send)
        except FlashSaleError as error:
            metrics.BUYS.labels(error.code).inc()
            await problem_of(error).send(send)
        except Exception:  # noqa: BLE001 - the edge: logged, and nothing said of it
            metrics.log.exception("request.failed", path=BUY_PATH)
            await INTERNAL.send(send)
        else:
            metrics.BUYS_ACCEPTED.inc()
            answer = buy_out(accepted)
            body = _encode(answer)
            await send(
                {
                    "type": "http.response.start",
                    "status": HTTPStatus.ACCEPTED,
                    "headers": [
                        (b"content-type", b"application/json"),
                        (b"content-length", b"%d" % len(body)),
                        (b"location", answer.check_status_url.encode()),
                    ],
                }
            )
            await send({"type": "http.response.body", "body": body, "more_body": False})

    return buy


METHOD_NOT_ALLOWED = Problem(
    status=HTTPStatus.METHOD_NOT_ALLOWED,
    code="method_not_allowed",
    body=b'{"type":"/docs/problems#method_not_allowed","title":"Method Not Allowed","status":405,'
    b'"detail":"Only POST buys.","code":"method_not_allowed"}',
    headers=[(b"allow", b"POST")],
)


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """Read a request body of at most `limit` bytes; `BodyTooLarge` as soon as it is more."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise BodyTooLarge(f"The body may have {limit} bytes.")
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidInput(field="body", problem="ended before it was complete")
        body += message.get("body", b"")  # type: ignore[operator]
        if len(body) > limit:
            raise BodyTooLarge(f"The body may have {limit} bytes.")
        if not message.get("more_body"):
            return body


def _parse(body: bytes) -> BuyIn:
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInput(field="body", problem=f"is not a buy: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(field="body", problem="is not JSON") from error


def _key(scope: Scope, request_id: str | None) -> str | None:
    header: str | None = None
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            if header is not None:
                raise InvalidInput(field="Idempotency-Key", problem="was sent twice")
            header = value.decode("latin-1")
    if header is None and request_id is None:
        return None
    if header is not None and request_id is not None and header != request_id:
        raise InvalidInput(field="requestId", problem="differs from the header Idempotency-Key")
    return check_key(header if header is not None else request_id or "")


@get("/api/order/{order_id:uuid}/status", summary="Look at an order", tags=["orders"])
async def status(
    request: Request[Any, Any, Any], order_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> OrderOut:
    """Give an order to its owner; 404 to everybody else."""
    return order_out(await services.orders.get(order_id, tokens.principal(request.scope)))


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
