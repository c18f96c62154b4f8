"""What goes over the wire, with the reference scenario's field names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from flashsale.domain.orders import Order
from flashsale.domain.products import ALLOTMENT_MAX, QUANTITY_MAX, LiveStock, Product
from flashsale.domain.requests import KEY_BYTES_MAX, Accepted

ProductId = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Units = Annotated[int, Meta(ge=0, le=ALLOTMENT_MAX)]
Text200 = Annotated[str, Meta(min_length=1, max_length=200)]

# What the domain checks by itself, with a problem that names the field: here only for the OpenAPI document.
Email = Annotated[str, Meta(min_length=3, max_length=254, extra_json_schema={"format": "email"})]
Price = Annotated[str, Meta(extra_json_schema={"pattern": r"^[0-9]{1,11}(\.[0-9]{1,2})?$"})]
Currency = Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Z]{3}$"})]
Quantity = Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": QUANTITY_MAX})]
KEY_PATTERN = "^[!-~]+( [!-~]+)*$"
Key = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": KEY_BYTES_MAX, "pattern": KEY_PATTERN})]


class In(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A request body."""


class Out(msgspec.Struct, kw_only=True, rename="camel"):
    """A response body."""


class RegisterIn(In):
    """Register."""

    name: Text200
    email: Email
    password: Annotated[str, Meta(min_length=8, max_length=128)]


class LoginIn(In):
    """Log in."""

    email: Annotated[str, Meta(min_length=1, max_length=254)]
    password: Annotated[str, Meta(min_length=1, max_length=128)]


class UserOut(Out):
    """An account."""

    id: UUID
    name: str
    email: str
    role: str


class RegisteredOut(Out):
    """A new account and its token."""

    token: str
    user: UserOut


class TokenOut(Out):
    """A login token."""

    token: str


class BuyIn(In):
    """Buy. `requestId` is an idempotency key for clients that cannot send the header."""

    product_id: ProductId
    quantity: Quantity = 1
    request_id: Key | None = None


class BoughtProduct(Out):
    """What was bought, as it was when the order was accepted."""

    id: int
    name: str
    price: str
    currency: str
    quantity: int


class BuyOut(Out, kw_only=True):
    """An accepted order. A repeated idempotency key gets the same, byte for byte."""

    success: Literal[True] = True
    order_id: UUID
    status: Literal["queued"] = "queued"
    message: str = "Your order is accepted; follow it at checkStatusUrl."
    check_status_url: str
    product: BoughtProduct


class OrderOut(Out, kw_only=True):
    """An order as its owner sees it."""

    success: Literal[True] = True
    order_id: UUID
    user_id: UUID
    status: str
    version: int
    quantity: int
    total_price: str
    currency: str
    product: BoughtProduct
    created_at: datetime
    updated_at: datetime


class StreamTokenOut(Out):
    """A token that opens the stream of one order, for clients that cannot send headers."""

    token: str
    expires_at: datetime


class ProductOut(Out):
    """A product with its free units."""

    id: int
    name: str
    price: str
    currency: str
    stock: int
    stock_version: int
    created_at: datetime
    updated_at: datetime
    starts_at: datetime | None
    ends_at: datetime | None


class AdminProductOut(ProductOut):
    """A product as administrators see it."""

    allotment: int
    unmade_units: int
    """Units of the allotment without a row yet; negative: rows that are to be deleted. The sale waits for neither."""
    payment_mode: str
    payment_window_s: int
    limit_per_buyer: int | None
    paused: bool
    epoch: int


class NewProductIn(In, kw_only=True):
    """Create a product; `stock` is its allotment."""

    name: Text200
    price: Price
    currency: Currency = "USD"
    stock: Units
    payment_mode: Literal["automatic", "by_buyer"] = "automatic"
    payment_window_s: Annotated[int, Meta(ge=1, le=86_400)] = 300
    limit_per_buyer: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    starts_at: Annotated[datetime, Meta(tz=True)] | None = None
    ends_at: Annotated[datetime, Meta(tz=True)] | None = None


class ProductChangeIn(In):
    """Change a product; a field left out stays, null opens a side of the window or the limit."""

    name: Text200 | msgspec.UnsetType = msgspec.UNSET
    payment_window_s: Annotated[int, Meta(ge=1, le=86_400)] | msgspec.UnsetType = msgspec.UNSET
    limit_per_buyer: Annotated[int, Meta(ge=1, le=1_000_000)] | msgspec.UnsetType | None = msgspec.UNSET
    starts_at: Annotated[datetime, Meta(tz=True)] | msgspec.UnsetType | None = msgspec.UNSET
    ends_at: Annotated[datetime, Meta(tz=True)] | msgspec.UnsetType | None = msgspec.UNSET


class StockIn(In):
    """Set a product's allotment."""

    product_id: ProductId
    stock: Units


class ProblemOut(Out):
    """Something that is wrong, and what to do."""

    what: str
    todo: str


class HealthOut(Out):
    """Whether this process can serve, and from what."""

    ready: bool
    postgres: bool
    listening: bool
    gate: Literal["loaded", "bypass", "empty"]
    """empty: no product is known, so there is nothing to load."""
    notes: list[ProblemOut]
    """What is slower than it should be, and right."""


def buy_out(accepted: Accepted) -> BuyOut:
    """Render a 202."""
    return BuyOut(
        order_id=accepted.order_id,
        check_status_url=f"/api/order/{accepted.order_id}/status",
        product=BoughtProduct(
            id=accepted.product_id,
            name=accepted.product_name,
            price=str(accepted.unit_price),
            currency=accepted.unit_price.currency,
            quantity=accepted.quantity,
        ),
    )


def order_out(order: Order) -> OrderOut:
    """Render an order."""
    return OrderOut(
        order_id=order.order_id,
        user_id=order.user_id,
        status=order.status.value,
        version=order.version,
        quantity=order.quantity,
        total_price=str(order.total_price),
        currency=order.unit_price.currency,
        product=BoughtProduct(
            id=order.product_id,
            name=order.product_name,
            price=str(order.unit_price),
            currency=order.unit_price.currency,
            quantity=order.quantity,
        ),
        created_at=order.created_at,
        updated_at=order.updated_at,
    )


def product_out(product: Product, stock: LiveStock) -> ProductOut:
    """Render a product."""
    return ProductOut(**_product_fields(product, stock))  # type: ignore[arg-type]


def admin_product_out(product: Product, stock: LiveStock) -> AdminProductOut:
    """Render a product for administrators."""
    return AdminProductOut(
        **_product_fields(product, stock),  # type: ignore[arg-type]
        allotment=product.allotment,
        unmade_units=product.unmade,
        payment_mode=product.payment_mode.value,
        payment_window_s=product.payment_window_s,
        limit_per_buyer=product.limit_per_buyer,
        paused=product.paused,
        epoch=product.epoch,
    )


def _product_fields(product: Product, stock: LiveStock) -> dict[str, object]:
    return {
        "id": product.product_id,
        "name": product.name,
        "price": str(product.price),
        "currency": product.price.currency,
        "stock": stock.free,
        "stock_version": stock.version,
        "created_at": product.created_at,
        "updated_at": product.updated_at,
        "starts_at": product.starts_at,
        "ends_at": product.ends_at,
    }
