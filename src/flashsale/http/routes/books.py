"""The books, for administrators."""

from __future__ import annotations

from datetime import date
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

from litestar import get
from litestar.params import FromQuery, QueryParameter

from flashsale.http.fields import Currency, ProductId, ProductName, shown
from flashsale.http.operations import SERVERS, Given, Operation, Parameter, plain_text
from flashsale.http.schemas import Out
from flashsale.http.services import UseServices

if TYPE_CHECKING:
    from flashsale.domain.books import BookEntry

ZONE_CHARS_MAX = 64


class BookEntryOut(Out):
    """The payments and refunds of one product, in one currency, on one day. A day without any has no entry."""

    day: Annotated[date, shown("The day.", "2026-11-27")]
    product_id: ProductId
    product_name: ProductName
    currency: Currency
    payments: Annotated[int, shown("Charges that were captured on that day.", 700, ge=0)]
    revenue: Annotated[str, shown("Their sum, as a decimal number.", "699993.00")]
    refunds: Annotated[int, shown("Refunds that succeeded on that day, also of charges of other days.", 2, ge=0)]
    refunded: Annotated[str, shown("Their sum.", "1049.98")]
    fees: Annotated[
        str | None,
        shown(
            "The payment provider's fees of these charges; null: the settlement has not read the fee of each charge, or"
            " the provider does not tell it in this currency.",
            "20299.80",
        ),
    ]
    net: Annotated[str, shown("Revenue less refunds and fees; may be negative.", "678643.22")]


BOOKS = Operation(
    name="readBooks",
    summary="Revenue and refunds by day",
    description="Sum captured charges and succeeded refunds by day, product and currency, by the time at which "
    "Postgres recorded them. One request covers at most 366 days.",
    tag="administration",
    caller="admin",
    limit="administration",
    parameters=(
        Parameter(
            name="since",
            place="query",
            schema={"type": "string", "format": "date"},
            description="The first day; without it, the last day alone.",
            example="2026-11-01",
        ),
        Parameter(
            name="until",
            place="query",
            schema={"type": "string", "format": "date"},
            description="The last day; without it, today.",
            example="2026-11-30",
        ),
        Parameter(
            name="timeZone",
            place="query",
            schema={**plain_text(ZONE_CHARS_MAX), "default": "UTC"},
            description="IANA name of the time zone in which a day ends at midnight.",
            example="Europe/Berlin",
        ),
    ),
    gives=(Given(status=HTTPStatus.OK, description="The entries, the oldest day first.", model=list[BookEntryOut]),),
    codes=SERVERS,
)


@get("/books", opt={"operation": BOOKS})
async def books(
    services: UseServices,
    since: FromQuery[date | None] = None,
    until: FromQuery[date | None] = None,
    time_zone: Annotated[str, QueryParameter(name="timeZone")] = "UTC",
) -> list[BookEntryOut]:
    """Sum what was taken and given back, by day, product and currency."""
    return [_entry_out(one) for one in await services.read_books(since=since, until=until, zone=time_zone)]


def _entry_out(one: BookEntry) -> BookEntryOut:
    return BookEntryOut(
        day=one.day,
        product_id=one.product_id,
        product_name=one.product_name,
        currency=one.revenue.currency,
        payments=one.payments,
        revenue=str(one.revenue),
        refunds=one.refunds,
        refunded=str(one.refunded),
        fees=None if one.fees is None else str(one.fees),
        net=str(one.net),
    )
