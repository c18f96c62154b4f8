"""The fields of what goes over the wire: type, limits, and what the OpenAPI document says of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta

from flashsale.domain.money import EXPONENTS
from flashsale.domain.products import ALLOTMENT_MAX, COOLDOWN_S_MAX, QUANTITY_MAX, LimitPer
from flashsale.domain.requests import KEY_BYTES_MAX


def shown(description: str, *examples: object, **limits: Any) -> Meta:
    """Describe a field to those who read the OpenAPI document, with examples of what it holds."""
    return Meta(description=description, examples=list(examples), **limits)


# Limits under `extra_json_schema` are checked by the domain, whose problem names the field: here they are only shown.
ID, ORDER_ID, USER_ID = 7, "0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58", "0197a3c1-02ab-7f31-8c1e-5d9a7b3e4f60"
TOKEN, MOMENT, LATER = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIwMTk3In0.c2ln", "2026-11-27T09:00:00Z", "2026-11-27T10:00:00Z"
KEY_PATTERN = "^[!-~]+( [!-~]+)*$"
KEY_SCHEMA = {"minLength": 1, "maxLength": KEY_BYTES_MAX, "pattern": KEY_PATTERN}
SENT_KEY_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_BYTES_MAX,
    "pattern": r'^([!#-~][!-~]*( [!-~]+)*|"([ !#-\[\]-~]|\\["\\])+")$',
}
PRICE_SCHEMA = {"pattern": rf"^[0-9]{{1,20}}(\.[0-9]{{1,{max(EXPONENTS.values())}}})?$"}

Aware = Annotated[datetime, Meta(tz=True)]
Limit = Annotated[int, Meta(ge=1, le=1_000_000)]
ProductId = Annotated[int, shown("The product's id.", ID, ge=1, le=2**31 - 1)]
ProductName = Annotated[str, shown("The product's name, as buyers see it.", "Phone X", min_length=1, max_length=200)]
Allotment = Annotated[int, shown("How many units exist.", 1000, ge=0, le=ALLOTMENT_MAX)]
AllotmentChange = Annotated[
    int, shown("How many units are added; negative: taken away.", 50, ge=-ALLOTMENT_MAX, le=ALLOTMENT_MAX)
]
Price = Annotated[
    str, shown("The price of one unit, as a decimal number with as many decimals as the currency has.", "999.99")
]
Currency = Annotated[
    str, shown("The currency, by its ISO 4217 code.", "USD", extra_json_schema={"pattern": "^[A-Z]{3}$"})
]
NewCurrency = Annotated[
    str,
    shown("The currency, by its ISO 4217 code.", "USD", extra_json_schema={"enum": sorted(EXPONENTS)}),
]
Quantity = Annotated[
    int, shown("How many units of the product.", 1, extra_json_schema={"minimum": 1, "maximum": QUANTITY_MAX})
]
OrderId = Annotated[UUID, shown("The order's id.", ORDER_ID)]
UserId = Annotated[UUID, shown("The account's id.", USER_ID)]
PersonName = Annotated[str, shown("The buyer's name.", "Ada Lovelace", min_length=1, max_length=200)]
NewPassword = Annotated[
    str, shown("A password of 8 characters or more.", "correct horse", min_length=8, max_length=128)
]
LoginToken = Annotated[str, shown("A login token (JWT) for `Authorization: Bearer <token>`.", TOKEN)]
PaymentWindow = Annotated[
    int, shown("How many seconds a buyer has to pay an order that waits for payment.", 300, ge=1, le=86_400)
]
LimitPerBuyer = Annotated[Limit | None, shown("The most units that one buyer's orders may hold; null: no limit.", 2)]
RefundableByBuyer = Annotated[bool, shown("Whether the buyer of a paid order may ask for the money back.", False)]
LimitPerOut = Annotated[
    LimitPer,
    shown(
        "Whose units the limit counts together: those of an account, or of all accounts whose e-mail addresses have one"
        " root (`a+1@example.com` and `a+2@example.com`).",
        "account",
    ),
]
Cooldown = Annotated[
    int,
    shown(
        "How many seconds units that a buyer held and did not pay for count toward `limitPerBuyer` after they are free"
        " again; 0: no longer than the buyer held them.",
        60,
        ge=0,
        le=COOLDOWN_S_MAX,
    ),
]
StartsAt = Annotated[Aware | None, shown("When the sale opens; null: it is open.", MOMENT)]
EndsAt = Annotated[Aware | None, shown("When the sale closes; null: it has no end.", LATER)]
CreatedAt = Annotated[datetime, shown("When it was created.", MOMENT)]
UpdatedAt = Annotated[datetime, shown("When it was last changed.", MOMENT)]
