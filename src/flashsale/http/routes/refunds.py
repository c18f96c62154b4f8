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
    from flashsale.domain.refunds import OrderRefund
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
    codes=("order_not_found", "order_archived", *SERVERS),
)

WITHDRAW = Operation(
    name="withdrawRefund",
    summary="Withdraw a refund",
    description="Take back a pending refund that nobody began to make: the provider was not asked for it, and no "
    "operator recorded its money. The order is what it was before the refund, and its units stay with it. A repetition "
    "changes nothing.",
    tag="administration",
    caller="support",
    limit="administration",
    parameters=(KEY,),
    gives=(
        Given(
            status=HTTPStatus.OK,
            description="The refund: `failed`, with the problem `withdrawn`.",
            model=RefundOut,
            headers=("ETag",),
            links={"listRefunds": {"order_id": "$response.body#/orderId"}},
        ),
    ),
    codes=("refund_not_found", "order_archived", "refund_ended", "refund_begun", "idempotency_key_reused", *SERVERS),
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
        return _kept(refund, HTTPStatus.ACCEPTED)

    return response_of(await answered_once(request, data, services, tokens, ask))


@post("/orders/{order_id:uuid}/refunds/{number:int}/withdraw", status_code=200, opt={"operation": WITHDRAW})
async def withdraw_refund(
    request: Request[Any, Any, Any],
    order_id: FromPath[UUID],
    number: FromPath[int],
    services: UseServices,
    tokens: UseTokens,
) -> Response[bytes]:
    """Withdraw a refund that nobody began to make."""

    async def withdraw(key: AdminRequest) -> KeptAnswer:
        return _kept(await services.refunds.withdraw(order_id, number, request=key), HTTPStatus.OK)

    return response_of(await answered_once(request, None, services, tokens, withdraw))


@get("/orders/{order_id:uuid}/refunds", opt={"operation": LIST})
async def list_refunds(order_id: FromPath[UUID], services: UseServices) -> list[RefundOut]:
    """List the refunds of an order."""
    return [refund_out(refund) for refund in await services.refunds.of_order(order_id)]


def _kept(refund: OrderRefund, status: HTTPStatus) -> KeptAnswer:
    body = _encode(refund_out(refund))
    return KeptAnswer(status=status.value, tag=tag_of(body).decode("ascii"), body=body)
