"""Refunds: administrators request and list them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, JSONBody

from flashsale.domain.requests import KeptAnswer
from flashsale.http.admin_schemas import RefundIn, RefundOut, refund_out
from flashsale.http.auth import UseTokens
from flashsale.http.conditions import tag_of
from flashsale.http.operations import SERVERS, Given, Operation
from flashsale.http.routes.changes import KEY, answered_once, response_of
from flashsale.http.services import UseServices

if TYPE_CHECKING:
    from flashsale.domain.requests import AdminRequest

REFUND = Operation(
    name="refundOrder",
    summary="Give money back",
    description="Refund the rest of an order's price, or a part of it; the payment workers make the refund. An order "
    "has at most one pending refund. Without an idempotency key, a repeated partial refund is made again.",
    tag="administration",
    caller="support",
    limit="administration",
    takes=RefundIn,
    parameters=(KEY,),
    gives=(
        Given(
            status=HTTPStatus.ACCEPTED,
            description="The refund, which is pending.",
            model=RefundOut,
            headers=("ETag",),
            links={"listRefunds": {"order_id": "$response.body#/orderId"}},
        ),
    ),
    codes=(
        "order_not_found",
        "order_state_forbids",
        "refund_too_large",
        "refund_under_way",
        "order_disputed",
        "idempotency_key_reused",
        *SERVERS,
    ),
)
LIST = Operation(
    name="listRefunds",
    summary="List an order's refunds",
    description="List the refunds of an order with their states and reasons, including refunds made at the provider.",
    tag="administration",
    caller="staff",
    limit="administration",
    gives=(Given(status=HTTPStatus.OK, description="The refunds, the oldest first.", model=list[RefundOut]),),
    codes=("order_not_found", *SERVERS),
)

_encode = msgspec.json.Encoder().encode


@post("/orders/{order_id:uuid}/refunds", status_code=202, opt={"operation": REFUND})
async def refund_order(
    request: Request[Any, Any, Any],
    order_id: FromPath[UUID],
    data: JSONBody[RefundIn],
    services: UseServices,
    tokens: UseTokens,
) -> Response[bytes]:
    """Refund an order, whole or in part."""

    async def ask(key: AdminRequest) -> KeptAnswer:
        refund = await services.refunds(
            order_id,
            amount=data.amount,
            restock=data.restock,
            reason=data.reason,
            requested_by=tokens.principal(request.scope).user_id,
            request=key,
        )
        body = _encode(refund_out(refund))
        return KeptAnswer(status=HTTPStatus.ACCEPTED.value, tag=tag_of(body).decode("ascii"), body=body)

    return response_of(await answered_once(request, data, services, tokens, ask))


@get("/orders/{order_id:uuid}/refunds", opt={"operation": LIST})
async def list_refunds(order_id: FromPath[UUID], services: UseServices) -> list[RefundOut]:
    """List the refunds of an order."""
    return [refund_out(refund) for refund in await services.refunds.of_order(order_id)]
