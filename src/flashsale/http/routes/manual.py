"""Money of the provider `manual`: administrators record what came and what they gave back."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, post
from litestar.params import FromPath, JSONBody

from flashsale.domain.requests import KeptAnswer
from flashsale.http.admin_schemas import ManualEntryOut, ManualPaymentIn, ManualRefundIn, manual_entry_out
from flashsale.http.auth import UseTokens
from flashsale.http.conditions import tag_of
from flashsale.http.operations import SERVERS, Given, Operation
from flashsale.http.routes.changes import KEY, answered_once, response_of
from flashsale.http.services import UseServices

if TYPE_CHECKING:
    from flashsale.domain.manual import ManualEntry
    from flashsale.domain.requests import AdminRequest

RECORD_PAYMENT = Operation(
    name="recordPayment",
    summary="Record that an order was paid",
    description="With the provider `manual`: record the money that came for an order that waits for its buyer. The "
    "payment workers then confirm it. Amount and currency must be the order's price. The same record again changes "
    "nothing and gets the first one, with who made it.",
    tag="administration",
    caller="support",
    limit="administration",
    takes=ManualPaymentIn,
    parameters=(KEY,),
    gives=(
        Given(
            status=HTTPStatus.OK,
            description="What is recorded.",
            model=ManualEntryOut,
            headers=("ETag",),
            links={"getOrderStory": {"order_id": "$response.body#/orderId"}},
        ),
    ),
    codes=(
        "order_not_found",
        "order_archived",
        "order_state_forbids",
        "payment_differs",
        "recorded_otherwise",
        "reference_used",
        "paid_elsewhere",
        "idempotency_key_reused",
        "not_supported",
        *SERVERS,
    ),
)
RECORD_REFUND = Operation(
    name="recordRefund",
    summary="Record that a refund was made",
    description="With the provider `manual`: record that the money of a pending refund was given back. A payment "
    "worker then ends the refund. The same record again changes nothing and gets the first one, with who made it.",
    tag="administration",
    caller="support",
    limit="administration",
    takes=ManualRefundIn,
    parameters=(KEY,),
    gives=(
        Given(
            status=HTTPStatus.OK,
            description="What is recorded.",
            model=ManualEntryOut,
            headers=("ETag",),
            links={"listRefunds": {"order_id": "$response.body#/orderId"}},
        ),
    ),
    codes=(
        "refund_not_found",
        "order_archived",
        "refund_ended",
        "recorded_otherwise",
        "paid_elsewhere",
        "idempotency_key_reused",
        "not_supported",
        *SERVERS,
    ),
)

_encode = msgspec.json.Encoder().encode


@post("/orders/{order_id:uuid}/paid", status_code=200, opt={"operation": RECORD_PAYMENT})
async def record_payment(
    request: Request[Any, Any, Any],
    order_id: FromPath[UUID],
    data: JSONBody[ManualPaymentIn],
    services: UseServices,
    tokens: UseTokens,
) -> Response[bytes]:
    """Record that an order was paid."""

    async def record(key: AdminRequest) -> KeptAnswer:
        entry = await services.record_money.payment(
            order_id,
            reference=data.reference,
            amount=data.amount,
            currency=data.currency,
            recorded_by=tokens.principal(request.scope).user_id,
            request=key,
        )
        return _kept(entry)

    return response_of(await answered_once(request, data, services, tokens, record))


@post("/orders/{order_id:uuid}/refunds/{number:int}/paid", status_code=200, opt={"operation": RECORD_REFUND})
async def record_refund(
    request: Request[Any, Any, Any],
    order_id: FromPath[UUID],
    number: FromPath[int],
    data: JSONBody[ManualRefundIn],
    services: UseServices,
    tokens: UseTokens,
) -> Response[bytes]:
    """Record that the money of a refund was given back."""

    async def record(key: AdminRequest) -> KeptAnswer:
        entry = await services.record_money.refund(
            order_id,
            number,
            reference=data.reference,
            recorded_by=tokens.principal(request.scope).user_id,
            request=key,
        )
        return _kept(entry)

    return response_of(await answered_once(request, data, services, tokens, record))


def _kept(entry: ManualEntry) -> KeptAnswer:
    body = _encode(manual_entry_out(entry))
    return KeptAnswer(status=HTTPStatus.OK.value, tag=tag_of(body).decode("ascii"), body=body)
