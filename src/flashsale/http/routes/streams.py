"""Server-sent events: the stock of a product, the state of an order."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from uuid import UUID

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, SkipValidation
from litestar.types import ASGIApp

from flashsale.http.fields import TOKEN
from flashsale.http.limits import count
from flashsale.http.operations import SERVERS, Given, Operation, Parameter
from flashsale.http.streams.events import ChangedEvent, OrderEvent, ProductEvent, StockEvent, TokenExpiredEvent
from flashsale.http.streams.held import Streams

UseStreams = NamedDependency[SkipValidation[Streams]]

LAST_EVENT_ID = Parameter(
    name="Last-Event-ID",
    place="header",
    schema={"type": "string"},
    description="The id of the last event that the client has, which is not sent again. EventSource sends this header.",
    example="87",
)
STREAM_TOKEN = Parameter(
    name="token",
    place="query",
    schema={"type": "string", "pattern": "^[A-Za-z0-9._~+/=-]*$"},
    description="A stream token, instead of the Authorization header.",
    example=TOKEN,
)


def _details(description: str) -> Parameter:
    return Parameter(
        name="details",
        place="query",
        schema={"type": "boolean", "default": False},
        description=description,
        example=True,
    )


STOCK = Operation(
    name="watchStock",
    summary="Watch a product's stock",
    description="Stream the free units of a product. The stream ends when the server stops; then connect again.",
    tag="streams",
    parameters=(
        LAST_EVENT_ID,
        _details("Whether to send the event `product` too, at the beginning and after each change of the product."),
    ),
    gives=(
        Given(
            status=HTTPStatus.OK,
            description="A stream of events; the first event has the present value.",
            events={"message": StockEvent, "product": ProductEvent},
            headers=("X-Accel-Buffering",),
        ),
    ),
    codes=("product_not_found", *SERVERS),
)
ORDER = Operation(
    name="watchOrder",
    summary="Watch an order",
    description="Stream the state of an order to its owner, until the state is final. A stream token opens streams "
    "until it expires; an open stream continues. With an expired token, the only event is `token-expired`. Its data "
    "names the path of a new token (`renewAt`): fetch the token and open another EventSource with it.",
    tag="streams",
    parameters=(
        STREAM_TOKEN,
        LAST_EVENT_ID,
        _details(
            "Whether to send the event `changed` too, when something else than the order's state changes, and to go on"
            " after `confirmed`, when money may be given back."
        ),
    ),
    gives=(
        Given(
            status=HTTPStatus.OK,
            description="A stream of events; the first has the present state, the last has the final state.",
            events={"message": OrderEvent, "changed": ChangedEvent, "token-expired": TokenExpiredEvent},
            headers=("X-Accel-Buffering",),
        ),
        Given(status=HTTPStatus.NO_CONTENT, description="The client knows the final state: do not connect again."),
    ),
    caller="stream",
    limit="streams",
    codes=("order_not_found", *SERVERS),
)


def _last_event_id(request: Request[Any, Any, Any]) -> int:
    value = request.headers.get("last-event-id", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else 0  # noqa: PLR2004 - 64 bits


@get("/sse/stock/{product_id:int}", opt={"operation": STOCK})
async def stock_stream(
    request: Request[Any, Any, Any],
    product_id: FromPath[int],
    streams: UseStreams,
    details: FromQuery[bool] = False,  # noqa: FBT002 - the framework passes it by name
) -> ASGIApp:
    """Stream the free units of a product; with `details` also the product."""
    return await streams.stock(product_id, _last_event_id(request), details=details)


@get("/sse/orders/{order_id:uuid}", opt={"operation": ORDER})
async def order_stream(
    request: Request[Any, Any, Any],
    order_id: FromPath[UUID],
    streams: UseStreams,
    details: FromQuery[bool] = False,  # noqa: FBT002 - the framework passes it by name
) -> ASGIApp:
    """Stream the state of an order to its owner, until it is final; `token-expired` asks for another stream token."""
    principal, expired = streams.principal(request, order_id)
    count(request.app.state.limits.streams, principal.user_id.int, request)
    return await streams.order(order_id, principal, _last_event_id(request), expired=expired, details=details)
