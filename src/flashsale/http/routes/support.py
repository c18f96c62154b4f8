"""What support does for a buyer: cancel an order, find an account, erase its personal data."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, FromQuery

from flashsale.domain.emails import EMAIL_MAX
from flashsale.domain.requests import KeptAnswer
from flashsale.http.auth import UseTokens
from flashsale.http.conditions import tag_of
from flashsale.http.fields import CreatedAt, PersonName, UserId, shown
from flashsale.http.operations import SERVERS, Given, Operation, Parameter, plain_text
from flashsale.http.routes.changes import KEY, answered_once, response_of
from flashsale.http.schemas import OrderOut, Out, order_out
from flashsale.http.services import UseServices

if TYPE_CHECKING:
    from flashsale.domain.requests import AdminRequest


class BuyerOut(Out):
    """An account of a buyer."""

    user_id: UserId
    name: PersonName
    email: Annotated[str, shown("The buyer's e-mail address.", "ada@example.com")]
    created_at: CreatedAt


class ErasedOut(Out):
    """An account whose personal data are erased."""

    user_id: UserId
    archived_orders: Annotated[
        int,
        shown(
            "Number of orders that are in files only (`flashsale archive`). The files name the account by its id, and"
            " no person.",
            0,
            ge=0,
        ),
    ]


CANCEL = Operation(
    name="cancelOrderForBuyer",
    summary="Cancel an order for its buyer",
    description="Cancel an order that waits for payment; its units are sold again. A cancelled order stays as it is.",
    tag="administration",
    caller="support",
    limit="administration",
    parameters=(KEY,),
    gives=(
        Given(status=HTTPStatus.OK, description="The order, which is cancelled.", model=OrderOut, headers=("ETag",)),
    ),
    codes=("order_not_found", "order_state_forbids", "idempotency_key_reused", *SERVERS),
)
FIND = Operation(
    name="findBuyers",
    summary="Find a buyer's account",
    description="Find the accounts of buyers with an e-mail address; any form of the address finds its account.",
    tag="administration",
    caller="support",
    limit="administration",
    parameters=(
        Parameter(
            name="email",
            place="query",
            schema=plain_text(EMAIL_MAX),
            description="The e-mail address.",
            example="ada@example.com",
            required=True,
        ),
    ),
    gives=(Given(status=HTTPStatus.OK, description="The accounts, usually one.", model=list[BuyerOut]),),
    codes=SERVERS,
)
ERASE = Operation(
    name="eraseBuyer",
    summary="Erase a buyer's personal data",
    description="Replace name and address of an account, delete its password and the e-mails about its orders, and end "
    "its tokens. Orders and money stay, those in the files of archived sales too. Nothing brings the data back; once "
    "more changes nothing.",
    tag="administration",
    caller="admin",
    limit="administration",
    parameters=(KEY,),
    gives=(Given(status=HTTPStatus.OK, description="The account is erased.", model=ErasedOut, headers=("ETag",)),),
    codes=("buyer_not_found", "open_orders", "idempotency_key_reused", *SERVERS),
)

_encode = msgspec.json.Encoder().encode


@post("/orders/{order_id:uuid}/cancel", status_code=200, opt={"operation": CANCEL})
async def cancel_order(
    request: Request[Any, Any, Any], order_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> Response[bytes]:
    """Cancel an order that waits for payment."""

    async def cancel(wanted: AdminRequest) -> KeptAnswer:
        return _kept(order_out(await services.orders.cancel_for_buyer(order_id, wanted)))

    return response_of(await answered_once(request, None, services, tokens, cancel))


@get("/buyers", opt={"operation": FIND})
async def find_buyers(services: UseServices, email: FromQuery[str]) -> list[BuyerOut]:
    """Find the accounts of buyers with an address."""
    return [
        BuyerOut(user_id=one.user_id, name=one.name, email=one.email, created_at=one.created_at)
        for one in await services.buyers.find(email)
    ]


@post("/buyers/{user_id:uuid}/erase", status_code=200, opt={"operation": ERASE})
async def erase_buyer(
    request: Request[Any, Any, Any], user_id: FromPath[UUID], services: UseServices, tokens: UseTokens
) -> Response[bytes]:
    """Erase an account's personal data."""

    async def erase(wanted: AdminRequest) -> KeptAnswer:
        await services.buyers.erase(user_id, wanted)
        archived = await services.buyers.archived_orders(user_id)
        return _kept(ErasedOut(user_id=user_id, archived_orders=archived))

    return response_of(await answered_once(request, None, services, tokens, erase))


def _kept(out: Out) -> KeptAnswer:
    body = _encode(out)
    return KeptAnswer(status=HTTPStatus.OK.value, tag=tag_of(body).decode("ascii"), body=body)
