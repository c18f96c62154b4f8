"""What goes over the wire, with the reference scenario's field names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flashsale.domain.orders import Order, OrderStatus
from flashsale.domain.products import LiveStock, PaymentMode, Product
from flashsale.domain.requests import Accepted
from flashsale.domain.users import Role
from flashsale.http.fields import (
    KEY_SCHEMA,
    LATER,
    MOMENT,
    ORDER_ID,
    PRICE_SCHEMA,
    TOKEN,
    Allotment,
    Cooldown,
    CreatedAt,
    Currency,
    EndsAt,
    LimitPerBuyer,
    LimitPerOut,
    LoginToken,
    NewPassword,
    OrderId,
    PaymentWindow,
    PersonName,
    Price,
    ProductId,
    ProductName,
    Quantity,
    RefundableByBuyer,
    StartsAt,
    UpdatedAt,
    UserId,
    shown,
)


class In(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A request body."""


class Out(msgspec.Struct, kw_only=True, rename="camel"):
    """A response body."""


class RegisterIn(In):
    """A registration."""

    name: PersonName
    email: Annotated[
        str,
        shown(
            "The e-mail address that identifies the account.",
            "ada@example.com",
            min_length=3,
            max_length=254,
            extra_json_schema={"format": "email"},
        ),
    ]
    password: NewPassword


class LoginIn(In):
    """A login."""

    email: Annotated[str, shown("The account's e-mail address.", "ada@example.com", min_length=1, max_length=254)]
    password: Annotated[str, shown("The account's password.", "correct horse", min_length=1, max_length=128)]


class PasswordChangeIn(In):
    """A new password, and the one that it replaces."""

    old_password: Annotated[str, shown("The account's password.", "correct horse", min_length=1, max_length=128)]
    new_password: NewPassword


class PasswordForgottenIn(In):
    """A request for a new password."""

    email: Annotated[str, shown("The account's e-mail address.", "ada@example.com", min_length=1, max_length=254)]


class PasswordResetIn(In):
    """A new password, and a code or token in place of the old one."""

    token: Annotated[
        str,
        shown("A code of an e-mail, or a token of `flashsale password-reset`.", TOKEN, min_length=1, max_length=2048),
    ]
    password: NewPassword


class UserOut(Out):
    """An account."""

    id: UserId
    name: PersonName
    email: Annotated[str, shown("The e-mail address that identifies the account.", "ada@example.com")]
    role: Annotated[Role, shown("What the account may do.", "buyer")]


class RegisteredOut(Out):
    """A new account and its login token."""

    token: LoginToken
    user: Annotated[UserOut, shown("The new account.")]


class TokenOut(Out):
    """A login token."""

    token: LoginToken


class BuyIn(In):
    """A wish to buy."""

    product_id: ProductId
    quantity: Quantity = 1
    request_id: Annotated[
        Annotated[str, Meta(extra_json_schema=KEY_SCHEMA)] | None,
        shown("The idempotency key, for clients that cannot send the header Idempotency-Key.", "cart-4711"),
    ] = None
    expected_price: Annotated[
        Annotated[str, Meta(extra_json_schema=PRICE_SCHEMA)] | None,
        shown(
            "The price of one unit that the buyer saw; if the price is another one now, nothing is bought"
            " (`price_changed`). Null: any price.",
            "999.99",
        ),
    ] = None


class BoughtProduct(Out):
    """What was bought, with name and price as they were when the order was accepted."""

    id: ProductId
    name: ProductName
    price: Price
    currency: Currency
    quantity: Quantity


class BuyOut(Out, kw_only=True):
    """An accepted order. A repeated idempotency key gets the same, byte for byte."""

    success: Annotated[Literal[True], shown("Always true: problems have documents of another type.", True)] = True
    order_id: OrderId
    status: Annotated[Literal["queued"], shown("The state in which an order begins.", "queued")] = "queued"
    message: Annotated[str, shown("A sentence for people.", "Your order is accepted; follow it at checkStatusUrl.")] = (
        "Your order is accepted; follow it at checkStatusUrl."
    )
    check_status_url: Annotated[
        str, shown("Where to look at the order: the same as in Location.", f"/api/order/{ORDER_ID}/status")
    ]
    product: Annotated[BoughtProduct, shown("What was bought.")]


class OrderOut(Out, kw_only=True):
    """An order as its owner sees it."""

    success: Annotated[Literal[True], shown("Always true: problems have documents of another type.", True)] = True
    order_id: OrderId
    user_id: UserId
    status: Annotated[OrderStatus, shown("The order's state.", "confirmed")]
    version: Annotated[int, shown("Rises with every change of the order's state.", 5, ge=0)]
    quantity: Quantity
    total_price: Annotated[str, shown("The price of all units together, like that of one.", "999.99")]
    refunded: Annotated[str, shown("What was given back of the price.", "0.00")]
    currency: Currency
    product: Annotated[BoughtProduct, shown("What was bought.")]
    pay_by: Annotated[
        datetime | None, shown("Until when the buyer may pay; null: the order does not wait for its buyer.", LATER)
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt


class StreamTokenOut(Out):
    """A token that opens the stream of one order, for clients that cannot send headers."""

    token: Annotated[str, shown("The token, for the query of `/sse/orders/{order_id}`.", TOKEN)]
    expires_at: Annotated[datetime, shown("From when on the token opens no stream.", MOMENT)]


class ProductTerms(Out):
    """What is shown of a product, but for its free units."""

    id: ProductId
    name: ProductName
    price: Price
    currency: Currency
    allotment: Allotment
    version: Annotated[int, shown("Rises with every change of the product; not with its free units.", 4, ge=0)]
    created_at: CreatedAt
    updated_at: UpdatedAt
    starts_at: StartsAt
    ends_at: EndsAt
    paused: Annotated[bool, shown("Whether the sale is paused.", False)]
    archived_at: Annotated[datetime | None, shown("When it was archived; null: it is not archived.", LATER)]
    moved_to: Annotated[
        int | None, shown("The product of another cell that it became; null: it was not moved.", 10000034)
    ]
    payment_mode: Annotated[PaymentMode, shown("Who starts the payment.", "automatic")]
    payment_window_s: PaymentWindow
    limit_per_buyer: LimitPerBuyer
    limit_per: LimitPerOut
    cooldown_s: Cooldown
    refundable_by_buyer: RefundableByBuyer


class ProductWithStock(ProductTerms):
    """What every answer with a product has."""

    stock: Annotated[int, shown("How many units are free.", 412, ge=0)]
    stock_version: Annotated[int, shown("Rises with every change of `stock`.", 88, ge=0)]


class ProductOut(ProductWithStock):
    """A product with its free units."""

    now: Annotated[
        datetime,
        shown(
            "The time by the clock that opens and closes the sale and ends the time to pay. The ETag leaves it out.",
            MOMENT,
        ),
    ]


class AliveOut(Out):
    """A sign of life."""

    live: Annotated[Literal[True], shown("Always true.", True)] = True


class ProblemOut(Out):
    """Something that is wrong, and what to do."""

    what: Annotated[str, shown("What is wrong.", "The gate is not loaded.")]
    todo: Annotated[str, shown("What to do.", "Wait: Postgres decides alone until it is.")]


class HealthOut(Out):
    """Whether this process can serve, and from what."""

    ready: Annotated[bool, shown("Whether this process can serve.", True)]
    postgres: Annotated[bool, shown("Whether Postgres answers.", True)]
    listening: Annotated[bool, shown("Whether notifications of Postgres arrive.", True)]
    gate: Annotated[
        Literal["loaded", "bypass", "empty"],
        shown("loaded: it decides; bypass: Postgres alone decides; empty: there is no product to load.", "loaded"),
    ]
    notes: Annotated[list[ProblemOut], shown("What is slower than it should be, and right.", [])]


class FieldProblem(Out):
    """What is wrong with one field."""

    field: Annotated[str, shown("The field or parameter.", "quantity")]
    problem: Annotated[str, shown("What is wrong with it.", "must be 1 or more")]


class Problem(Out, kw_only=True):
    """An RFC 9457 problem document."""

    type: Annotated[
        str,
        shown("A page that explains the code.", "/problems/sold_out", extra_json_schema={"format": "uri-reference"}),
    ]
    title: Annotated[str, shown("The status in words.", "Conflict")]
    status: Annotated[int, shown("The HTTP status.", 409, ge=400, le=599)]
    detail: Annotated[str, shown("What happened, for people.", "Sold out. Units that come back are sold again.")]
    code: Annotated[str, shown("What happened, for programs: a code keeps its meaning.", "sold_out")]
    field: Annotated[str, shown("The field, header or parameter that is wrong.", "quantity")] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    errors: (
        Annotated[
            list[FieldProblem],
            shown("All that is wrong, field by field.", [{"field": "stock", "problem": "is missing"}]),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    starts_at: Annotated[datetime | None, shown("When the sale opens.", MOMENT)] | msgspec.UnsetType = msgspec.UNSET
    ends_at: Annotated[datetime, shown("When the cool-down has passed.", LATER)] | msgspec.UnsetType = msgspec.UNSET
    price: Annotated[str, shown("What a unit costs now.", "899.99")] | msgspec.UnsetType = msgspec.UNSET
    currency: Annotated[str, shown("In which currency, an ISO 4217 code.", "USD")] | msgspec.UnsetType = msgspec.UNSET
    cell: Annotated[int, shown("Which cell answers the request.", 1)] | msgspec.UnsetType = msgspec.UNSET
    moved_to: (
        Annotated[int, shown("The product of another cell that this one became.", 10000034)] | msgspec.UnsetType
    ) = msgspec.UNSET


class NotReadyProblem(Problem, kw_only=True):
    """The problem document of a process that cannot serve."""

    ready: Annotated[Literal[False], shown("Always false.", False)]
    postgres: Annotated[bool, shown("Whether Postgres answers.", False)]
    listening: Annotated[bool, shown("Whether notifications of Postgres arrive.", False)]
    gate: Annotated[Literal["loaded", "bypass", "empty"], shown("What the gate does.", "bypass")]
    notes: Annotated[list[ProblemOut], shown("What is slower than it should be, and right.", [])]
    problems: Annotated[
        list[ProblemOut],
        shown("Why nothing can be sold here.", [{"what": "Postgres does not answer.", "todo": "Start it."}]),
    ]


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
    return OrderOut(**order_fields(order))  # type: ignore[arg-type]


def order_fields(order: Order) -> dict[str, object]:
    """Return the fields of a rendered order."""
    return {
        "order_id": order.order_id,
        "user_id": order.user_id,
        "status": order.status,
        "version": order.version,
        "quantity": order.quantity,
        "total_price": str(order.total_price),
        "refunded": str(order.refunded),
        "currency": order.unit_price.currency,
        "product": BoughtProduct(
            id=order.product_id,
            name=order.product_name,
            price=str(order.unit_price),
            currency=order.unit_price.currency,
            quantity=order.quantity,
        ),
        "pay_by": order.pay_by,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    }


def product_fields(product: Product, stock: LiveStock) -> dict[str, object]:
    """Return the fields that all answers with a product have."""
    return {**terms_fields(product), "stock": stock.free, "stock_version": stock.version}


def terms_fields(product: Product) -> dict[str, object]:
    """Return what is shown of a product, but for its free units."""
    return {
        "id": product.product_id,
        "name": product.name,
        "price": str(product.price),
        "currency": product.price.currency,
        "allotment": product.allotment,
        "version": product.version,
        "created_at": product.created_at,
        "updated_at": product.updated_at,
        "starts_at": product.starts_at,
        "ends_at": product.ends_at,
        "paused": product.paused,
        "archived_at": product.archived_at,
        "moved_to": product.moved_to,
        "payment_mode": product.payment_mode,
        "payment_window_s": product.payment_window_s,
        "limit_per_buyer": product.limit_per_buyer,
        "limit_per": product.limit_per,
        "cooldown_s": product.cooldown_s,
        "refundable_by_buyer": product.refundable_by_buyer,
    }
