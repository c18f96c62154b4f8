"""Orders: buy, look, pay, cancel, ask for a refund, and a token for the order's stream."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from flashsale.domain.errors import FlashSaleError, InvalidInput
from flashsale.domain.requests import BuyRequest, check_key
from flashsale.http.auth import UseTokens
from flashsale.http.bodies import body_of
from flashsale.http.fields import SENT_KEY_SCHEMA
from flashsale.http.keys import sent_key
from flashsale.http.limits import limited
from flashsale.http.messages import rendered
from flashsale.http.operations import SERVERS, Given, Operation, Parameter, page_of_orders
from flashsale.http.payment_schemas import PaymentOut, payment_out
from flashsale.http.routing import Direct
from flashsale.http.schemas import BuyIn, BuyOut, OrderOut, StreamTokenOut, buy_out, order_out
from flashsale.http.services import UseServices

if TYPE_CHECKING:
    from flashsale.http.auth import Tokens
    from flashsale.http.limits import Limits
    from flashsale.http.messages import Answer
    from flashsale.http.messages import Request as Received
    from flashsale.http.metrics import Meter
    from flashsale.usecases.services import Services

BUY_PATH = "/api/order/buy-flash"
STATUS_TEMPLATE = "/api/order/{order_id:uuid}/status"
_ORDER_ID_AT = STATUS_TEMPLATE.split("/").index("{order_id:uuid}")

IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    place="header",
    schema=SENT_KEY_SCHEMA,
    description="Names this request of its sender. If an accepted request is sent again under its key, it gets the "
    'same 202 while the order exists. A string of RFC 9651 or its text: `"cart-4711"` and `cart-4711` are one key.',
    example="cart-4711",
)
_OF_BOUGHT = {"order_id": "$response.body#/orderId"}
BUY = Operation(
    name="buy",
    summary="Buy",
    description="Claim units of a product. After a 429 or 503, send the same request again under its key. The router "
    "of a shop of several cells reads the product's id from the header `Flashsale-Product`; the API ignores it.",
    tag="orders",
    caller="buyer",
    limit="buys",
    takes=BuyIn,
    parameters=(IDEMPOTENCY_KEY,),
    gives=(
        Given(
            status=HTTPStatus.ACCEPTED,
            description="Accepted: the order is durable.",
            model=BuyOut,
            headers=("Location",),
            links=dict.fromkeys(("getOrder", "payOrder", "cancelOrder", "createStreamToken"), _OF_BOUGHT),
        ),
    ),
    codes=(
        "product_not_found",
        "sold_out",
        "limit_reached",
        "cooling_down",
        "price_changed",
        "sale_not_started",
        "sale_ended",
        "sale_moved",
        "sale_paused",
        "idempotency_key_reused",
        *SERVERS,
    ),
)
LOOK = Operation(
    name="getOrder",
    summary="Look at an order",
    description="Return an order to its owner; anybody else gets 404.",
    tag="orders",
    caller="buyer",
    limit="orders",
    gives=(Given(status=HTTPStatus.OK, description="The order.", model=OrderOut),),
    codes=("order_not_found", *SERVERS),
)
LIST = Operation(
    name="listMyOrders",
    summary="List my orders",
    description="List the caller's own orders, newest first, a page at a time. A buyer who lost an order's id finds "
    "the order here, to pay or cancel it.",
    tag="orders",
    caller="buyer",
    limit="orders",
    parameters=page_of_orders(usual=20, most=100),
    gives=(Given(status=HTTPStatus.OK, description="A page of orders.", model=list[OrderOut]),),
    codes=SERVERS,
)
PAY = Operation(
    name="payOrder",
    summary="Pay an order that waits for payment",
    description="Ask for the payment of an order whose buyer pays (`by_buyer`), before `payBy`; a repetition changes "
    "nothing and gets the same answer. With `clientSecret`, the provider's element in the page takes the payment; with "
    "`paymentUrl`, the provider's page does; with neither, the payment begins by itself or, with the provider "
    "`manual`, the shop waits for the money. The order shows its result.",
    tag="orders",
    caller="buyer",
    limit="orders",
    gives=(Given(status=HTTPStatus.ACCEPTED, description="The order, and how to pay it.", model=PaymentOut),),
    codes=("order_not_found", "order_state_forbids", *SERVERS),
)
CANCEL = Operation(
    name="cancelOrder",
    summary="Cancel an order before it is paid",
    description="Cancel an order that waits for payment; its units are sold again.",
    tag="orders",
    caller="buyer",
    limit="orders",
    gives=(Given(status=HTTPStatus.OK, description="The order, cancelled.", model=OrderOut),),
    codes=("order_not_found", "order_state_forbids", *SERVERS),
)
REFUND = Operation(
    name="requestRefund",
    summary="Ask for the money of an order back",
    description="Ask for all that is left of a paid order's price, if its product is `refundableByBuyer`. The units "
    "are sold again once the money is back. A repetition changes nothing and gets the order as it is then.",
    tag="orders",
    caller="buyer",
    limit="orders",
    gives=(Given(status=HTTPStatus.ACCEPTED, description="The order; it shows what becomes of it.", model=OrderOut),),
    codes=(
        "order_not_found",
        "order_state_forbids",
        "refund_not_offered",
        "refund_under_way",
        "order_disputed",
        *SERVERS,
    ),
)
STREAM_TOKEN = Operation(
    name="createStreamToken",
    summary="Make a token for EventSource",
    description="Make a token that opens this order's stream: `/sse/orders/{order_id}?token=...`.",
    tag="orders",
    caller="buyer",
    limit="orders",
    gives=(
        Given(
            status=HTTPStatus.CREATED,
            description="The token.",
            model=StreamTokenOut,
        ),
    ),
    codes=("order_not_found", *SERVERS),
)

COUNTED = [limited("orders")]

UNKNOWN = 0
"""Stands for all unknown products where a buyer's requests are counted."""

_buy_in = msgspec.json.Decoder(BuyIn)
_encode = msgspec.json.Encoder().encode


def direct_routes(services: Services, tokens: Tokens, meter: Meter, limits: Limits) -> list[Direct]:
    """Make the routes of nearly all requests of a sale: buy, and look at an order."""
    catalog = services.catalog

    async def buy(request: Received) -> Answer:
        try:
            principal = tokens.sender(request)
            wanted = body_of(request, _buy_in, what="a buy")
            key = _key(request.all(b"idempotency-key"), wanted.request_id)
            user_id, product_id = principal.user_id, wanted.product_id
            # Counted before any look-up, under a number: hashing a UUID runs in Python.
            request.extra = limits.buys.take((user_id.int, product_id if product_id in catalog else UNKNOWN))
            accepted = await services.buy(BuyRequest(user_id, product_id, wanted.quantity, key, wanted.expected_price))
        except FlashSaleError as error:
            meter.count_buy(error.code)
            raise
        meter.count_buy("accepted")
        answer = buy_out(accepted)
        location = (b"location", answer.check_status_url.encode())
        return rendered(HTTPStatus.ACCEPTED, _encode(answer), location)

    async def status(request: Received) -> Answer:
        order_id = msgspec.convert(request.path.split("/")[_ORDER_ID_AT], UUID)
        principal = tokens.sender(request)
        request.extra = limits.orders.take(principal.user_id.int)
        order = await services.orders.get(order_id, principal)
        return rendered(HTTPStatus.OK, _encode(order_out(order)))

    return [
        Direct(template=BUY_PATH, method="POST", serve=buy, operation=BUY),
        Direct(template=STATUS_TEMPLATE, method="GET", serve=status, operation=LOOK),
    ]


def _key(sent: list[bytes], request_id: str | None) -> str | None:
    if not sent:
        return None if request_id is None else check_key(request_id)
    key = sent_key(sent)
    if request_id is not None and key != request_id:
        raise InvalidInput(field="requestId", problem="differs from the header Idempotency-Key")
    return key


@get("/api/orders", guards=COUNTED, opt={"operation": LIST})
async def list_mine(
    request: Request[Any, Any, Any],
    services: UseServices,
    tokens: UseTokens,
    before: FromQuery[UUID | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
) -> list[OrderOut]:
    """List the caller's own orders, newest first; `before` is the last order id of the previous page."""
    orders = await services.orders.of_buyer(tokens.principal(request.scope), before=before, limit=limit)
    return [order_out(order) for order in orders]


@post("/api/order/{order_id:uuid}/pay", status_code=202, guards=COUNTED, opt={"operation": PAY})
async def pay(
    request: Request[Any, Any, Any], order_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> PaymentOut:
    """Ask for the payment of a `by_buyer` order; a repetition changes nothing."""
    return payment_out(*await services.orders.pay(order_id, tokens.principal(request.scope)))


@post("/api/order/{order_id:uuid}/cancel", status_code=200, guards=COUNTED, opt={"operation": CANCEL})
async def cancel(
    request: Request[Any, Any, Any], order_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> OrderOut:
    """Cancel an order that waits for payment; its units are sold again."""
    return order_out(await services.orders.cancel(order_id, tokens.principal(request.scope)))


@post("/api/order/{order_id:uuid}/refund", status_code=202, guards=COUNTED, opt={"operation": REFUND})
async def refund(
    request: Request[Any, Any, Any], order_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> OrderOut:
    """Ask for the money of an order back; a repetition changes nothing."""
    return order_out(await services.refunds.by_buyer(order_id, tokens.principal(request.scope).user_id))


@post("/api/order/{order_id:uuid}/stream-token", status_code=201, guards=COUNTED, opt={"operation": STREAM_TOKEN})
async def stream_token(
    request: Request[Any, Any, Any], order_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> StreamTokenOut:
    """Make a token that opens this order's stream: `/sse/orders/{id}?token=...`."""
    principal = tokens.principal(request.scope)
    await services.orders.get(order_id, principal)
    token, expires_at = tokens.issue_stream(principal, order_id)
    return StreamTokenOut(token=token, expires_at=datetime.fromtimestamp(expires_at, UTC))
