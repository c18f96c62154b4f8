"""The whole story of one order, for administrators."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from litestar import get
from litestar.params import FromPath

from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import PaymentMode
from flashsale.http.auth import permitted
from flashsale.http.fields import MOMENT, Currency, OrderId, Price, ProductId, ProductName, Quantity, UserId, shown
from flashsale.http.limits import limited
from flashsale.http.operations import SERVERS, Given, Operation
from flashsale.http.schemas import Out
from flashsale.http.services import UseServices
from flashsale.usecases.story import story_of

if TYPE_CHECKING:
    from flashsale.usecases.story import Story


class EntryOut(Out):
    """One event in the story of an order."""

    at: Annotated[datetime, shown("When, by Postgres' clock.", MOMENT)]
    kind: Annotated[str, shown("What happened.", "payment_ended")]
    facts: Annotated[dict[str, Any], shown("The facts of this kind.", {"attempt": 1, "outcome": "captured"})]


class StoryOut(Out):
    """An order, whose it is, and what happened to it."""

    order_id: OrderId
    user_id: UserId
    email: Annotated[str, shown("The buyer's e-mail address.", "ada@example.com")]
    buyer_name: Annotated[str, shown("The buyer's name.", "Ada Lovelace")]
    product_id: ProductId
    product_name: ProductName
    quantity: Quantity
    unit_price: Price
    currency: Currency
    status: Annotated[OrderStatus, shown("The order's state.", "confirmed")]
    payment_mode: Annotated[PaymentMode, shown("Who starts the payment.", "automatic")]
    due_at: Annotated[
        datetime | None, shown("When the sweep looks at the order again; null: the order is final.", MOMENT)
    ]
    key: Annotated[str | None, shown("The idempotency key of the buy; null: it had none.", "press-1")]
    request_id: Annotated[
        str | None,
        shown("The id of the request that made the order, which log lines carry; null: unknown.", "5f2c9a01be44-2a"),
    ]
    trace_id: Annotated[
        str | None,
        shown("The id of the order's trace; null: the request was not traced.", "4bf92f3577b34da6a3ce929d0e0e4736"),
    ]
    units: Annotated[list[int], shown("Numbers of the units that the order holds.", [17])]
    entries: Annotated[list[EntryOut], shown("What happened, in the order of time.")]


STORY = Operation(
    name="getOrderStory",
    summary="Everything that happened to an order",
    description="Return an order with its buyer, its units, each change of its state, each payment attempt, its job "
    "its webhooks and its waiting messages, with times.",
    tag="administration",
    caller="staff",
    limit="administration",
    gives=(Given(status=HTTPStatus.OK, description="The order's story.", model=StoryOut),),
    codes=("order_not_found", "order_archived", *SERVERS),
)


@get("/api/admin/orders/{order_id:uuid}", opt={"operation": STORY}, guards=[limited("administration"), permitted])
async def story(order_id: FromPath[UUID], services: UseServices) -> StoryOut:
    """Return everything that happened to an order."""
    return _story_out(await story_of(services.stories, order_id))


def _story_out(one: Story) -> StoryOut:
    return StoryOut(
        order_id=one.order_id,
        user_id=one.user_id,
        email=one.email,
        buyer_name=one.buyer_name,
        product_id=one.product_id,
        product_name=one.product_name,
        quantity=one.quantity,
        unit_price=str(one.unit_price),
        currency=one.unit_price.currency,
        status=one.status,
        payment_mode=PaymentMode(one.payment_mode),
        due_at=one.due_at,
        key=one.key,
        request_id=one.request_id,
        trace_id=one.trace_id,
        units=list(one.units),
        entries=[EntryOut(at=entry.at, kind=entry.kind, facts=dict(entry.facts)) for entry in one.entries],
    )
