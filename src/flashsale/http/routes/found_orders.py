"""Orders that administrators look for."""

from __future__ import annotations

import enum
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import msgspec
from litestar import get
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream

from flashsale.domain.emails import EMAIL_MAX
from flashsale.domain.orders import FoundOrder, OrderFilter, OrderStatus
from flashsale.http.fields import LATER, MOMENT, ORDER_ID, shown
from flashsale.http.operations import SERVERS, Given, Operation, Parameter, page_of_orders, plain_text
from flashsale.http.schemas import OrderOut, order_fields
from flashsale.http.services import UseServices
from flashsale.runtime.csv_rows import csv_rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class FoundOrderOut(OrderOut):
    """An order, and whose it is."""

    email: Annotated[str, shown("The buyer's e-mail address.", "ada@example.com")]


class ExportFormat(enum.StrEnum):
    """The format of an export."""

    CSV = "csv"
    JSONL = "jsonl"

    @property
    def media_type(self) -> str:
        """Return its media type."""
        return "text/csv" if self is ExportFormat.CSV else "application/jsonl"


EXPORTED = (
    "orderId",
    "createdAt",
    "updatedAt",
    "status",
    "email",
    "userId",
    "productId",
    "productName",
    "quantity",
    "unitPrice",
    "totalPrice",
    "refunded",
    "currency",
)
"""The columns of the CSV."""

_encode = msgspec.json.Encoder().encode

FILTERS = (
    Parameter(
        name="email",
        place="query",
        schema=plain_text(EMAIL_MAX),
        description="Orders of the buyer with this e-mail address only; any form of the address finds it.",
        example="ada@example.com",
    ),
    Parameter(
        name="productId",
        place="query",
        schema={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        description="Orders of this product only.",
        example=7,
    ),
    Parameter(
        name="status",
        place="query",
        schema={"type": "string", "enum": [status.value for status in OrderStatus]},
        description="Orders in this state only.",
        example="confirmed",
    ),
    Parameter(
        name="createdFrom",
        place="query",
        schema={"type": "string", "format": "date-time"},
        description="Orders that were created at this time or later.",
        example=MOMENT,
    ),
    Parameter(
        name="createdTo",
        place="query",
        schema={"type": "string", "format": "date-time"},
        description="Orders that were created before this time.",
        example=LATER,
    ),
)
LIST_ORDERS = Operation(
    name="listOrders",
    summary="Find orders",
    description="Find orders by buyer, product, state and time, newest first, a page at a time.",
    tag="administration",
    caller="staff",
    limit="administration",
    parameters=(*FILTERS, *page_of_orders(usual=100, most=500)),
    gives=(Given(status=HTTPStatus.OK, description="A page of orders.", model=list[FoundOrderOut]),),
    codes=SERVERS,
)

ProductIdQuery = Annotated[int | None, QueryParameter(name="productId", ge=1, le=2**31 - 1)]
CreatedFromQuery = Annotated[datetime | None, QueryParameter(name="createdFrom")]
CreatedToQuery = Annotated[datetime | None, QueryParameter(name="createdTo")]


@get("/orders", opt={"operation": LIST_ORDERS})
async def list_orders(
    services: UseServices,
    email: FromQuery[str | None] = None,
    product_id: ProductIdQuery = None,
    status: FromQuery[OrderStatus | None] = None,
    created_from: CreatedFromQuery = None,
    created_to: CreatedToQuery = None,
    before: FromQuery[UUID | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> list[FoundOrderOut]:
    """Find orders, newest first; `before` is the last order id of the previous page."""
    wanted = OrderFilter(
        email=email, product_id=product_id, status=status, created_from=created_from, created_to=created_to
    )
    return [found_order_out(one) for one in await services.find_orders(wanted, before=before, limit=limit)]


EXPORT = Operation(
    name="exportOrders",
    summary="Export orders",
    description="Stream all orders of a buyer, product, state or time, newest first, as CSV (RFC 4180, with a line of "
    "names) or as JSON lines. Orders that are accepted meanwhile are left out. The body is whole if its last chunk "
    "arrived. In CSV, a text that a spreadsheet would run as a formula has an apostrophe before it.",
    tag="administration",
    caller="admin",
    limit="administration",
    in_parts=True,
    parameters=(
        *FILTERS,
        Parameter(
            name="format",
            place="query",
            schema={"type": "string", "enum": [one.value for one in ExportFormat], "default": "csv"},
            description="The format.",
            example="jsonl",
        ),
    ),
    gives=(
        Given(
            status=HTTPStatus.OK,
            description="The orders.",
            texts={
                ExportFormat.CSV.media_type: csv_rows([EXPORTED]),
                ExportFormat.JSONL.media_type: f'{{"orderId":"{ORDER_ID}","status":"confirmed"}}\n',
            },
            headers=("Content-Disposition",),
        ),
    ),
    codes=SERVERS,
)


@get("/orders/export", opt={"operation": EXPORT})
async def export_orders(
    services: UseServices,
    email: FromQuery[str | None] = None,
    product_id: ProductIdQuery = None,
    status: FromQuery[OrderStatus | None] = None,
    created_from: CreatedFromQuery = None,
    created_to: CreatedToQuery = None,
    form: Annotated[ExportFormat, QueryParameter(name="format")] = ExportFormat.CSV,
) -> Stream:
    """Stream orders, newest first, a page at a time."""
    wanted = OrderFilter(
        email=email, product_id=product_id, status=status, created_from=created_from, created_to=created_to
    )
    pages = services.find_orders.pages(wanted)
    # Before the head is sent: what is wrong with the request or with the database can still be answered.
    first = await anext(pages)

    async def parts() -> AsyncIterator[bytes]:
        yield rendered_orders(first, form, names=True)
        async for page in pages:
            yield rendered_orders(page, form)

    return Stream(
        parts(),
        media_type=form.media_type,
        headers={"content-disposition": f'attachment; filename="orders.{form.value}"'},
    )


def rendered_orders(page: Sequence[FoundOrder], form: ExportFormat, *, names: bool = False) -> bytes:
    """Render a page of an export, the first with a line of names if the format has one."""
    if form is ExportFormat.JSONL:
        return b"".join([_encode(found_order_out(one)) + b"\n" for one in page])
    rows = (_row(one) for one in page)
    return csv_rows([EXPORTED, *rows] if names else rows).encode()


def _row(found: FoundOrder) -> tuple[object, ...]:
    order = found.order
    return (
        str(order.order_id),
        order.created_at.isoformat(),
        order.updated_at.isoformat(),
        order.status.value,
        found.email,
        str(order.user_id),
        order.product_id,
        order.product_name,
        order.quantity,
        str(order.unit_price),
        str(order.total_price),
        str(order.refunded),
        order.unit_price.currency,
    )


def found_order_out(found: FoundOrder) -> FoundOrderOut:
    """Render an order for administrators."""
    return FoundOrderOut(**order_fields(found.order), email=found.email)  # type: ignore[arg-type]
