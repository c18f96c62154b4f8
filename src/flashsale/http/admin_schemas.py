"""The JSON bodies of requests and answers for administrators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from flashsale.domain.manual import REFERENCE_CHARS_MAX, ManualEntry
from flashsale.domain.money import parse_money
from flashsale.domain.payments import RefundState
from flashsale.domain.products import LimitPer, LiveStock, NewProduct, PaymentMode, Product, ProductChange
from flashsale.domain.refunds import REASON_CHARS_MAX, OrderRefund
from flashsale.http.fields import (
    MOMENT,
    PRICE_SCHEMA,
    USER_ID,
    Allotment,
    AllotmentChange,
    Cooldown,
    CreatedAt,
    Currency,
    EndsAt,
    LimitPerBuyer,
    LimitPerOut,
    NewCurrency,
    OrderId,
    PaymentWindow,
    ProductId,
    ProductName,
    RefundableByBuyer,
    StartsAt,
    shown,
)
from flashsale.http.schemas import In, Out, ProductWithStock, product_fields
from flashsale.usecases.product_figures import ProductFigures


class AdminProductOut(ProductWithStock):
    """A product as administrators see it."""

    unmade_units: Annotated[
        int,
        shown(
            "Units of the allotment that have no row yet; negative: rows that are to be deleted. The sale waits for"
            " neither.",
            0,
        ),
    ]
    epoch: Annotated[int, shown("The gate's epoch: rises whenever the gate is loaded.", 3, ge=0)]


class ProductFiguresOut(AdminProductOut):
    """A product, and what was sold of it."""

    claimed: Annotated[int, shown("Units that orders hold; `stock` are those that nobody holds.", 788, ge=0)]
    sold: Annotated[int, shown("Units of confirmed orders.", 700, ge=0)]
    revenue: Annotated[
        str,
        shown(
            "The prices of all orders that were paid, also of those with a refund, as a decimal number.", "701993.00"
        ),
    ]
    refunded: Annotated[str, shown("What of it was given back.", "2000.00")]
    files: Annotated[
        str | None,
        shown(
            "Machine and folder of the files that have the orders, from the start of `flashsale archive` on; null:"
            " only the database has them.",
            "desk:/backup/sales/product-7",
        ),
    ]


class NewProductIn(In, kw_only=True):
    """A product to create; `stock` is its allotment."""

    name: ProductName
    price: Annotated[
        str,
        shown(
            "The price of one unit; at most as many decimals as the currency has.",
            "999.99",
            extra_json_schema=PRICE_SCHEMA,
        ),
    ]
    currency: NewCurrency = "USD"
    stock: Allotment
    payment_mode: Annotated[PaymentMode, shown("Who starts the payment.", "automatic")] = PaymentMode.AUTOMATIC
    payment_window_s: PaymentWindow = 300
    limit_per_buyer: LimitPerBuyer = None
    limit_per: LimitPerOut = LimitPer.ACCOUNT
    cooldown_s: Cooldown = 0
    refundable_by_buyer: RefundableByBuyer = False
    starts_at: StartsAt = None
    ends_at: EndsAt = None


def new_product(data: NewProductIn) -> NewProduct:
    """Return the product that a body asks for.

    Raises:
        InvalidInput: if price or currency cannot be read.
    """
    return NewProduct(
        name=data.name,
        price=parse_money(data.price, data.currency),
        allotment=data.stock,
        payment_mode=PaymentMode(data.payment_mode),
        payment_window_s=data.payment_window_s,
        limit_per_buyer=data.limit_per_buyer,
        limit_per=data.limit_per,
        cooldown_s=data.cooldown_s,
        refundable_by_buyer=data.refundable_by_buyer,
        starts_at=data.starts_at,
        ends_at=data.ends_at,
    )


class ProductChangeIn(In):
    """Changes of a product. A missing field stays as it is; null removes an end of the window or the limit."""

    name: ProductName | msgspec.UnsetType = msgspec.UNSET
    price: (
        Annotated[
            str,
            shown("The price of later orders; an order keeps its own.", "899.99", extra_json_schema=PRICE_SCHEMA),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    payment_window_s: PaymentWindow | msgspec.UnsetType = msgspec.UNSET
    limit_per_buyer: LimitPerBuyer | msgspec.UnsetType = msgspec.UNSET
    limit_per: LimitPerOut | msgspec.UnsetType = msgspec.UNSET
    cooldown_s: Cooldown | msgspec.UnsetType = msgspec.UNSET
    starts_at: StartsAt | msgspec.UnsetType = msgspec.UNSET
    ends_at: EndsAt | msgspec.UnsetType = msgspec.UNSET


def product_change(data: ProductChangeIn) -> ProductChange:
    """Return the change that a body asks for."""
    fields = {name: value for name in data.__struct_fields__ if (value := getattr(data, name)) is not msgspec.UNSET}
    return ProductChange(fields=fields)


class StockIn(In):
    """A product's new allotment."""

    product_id: ProductId
    stock: Allotment


class StockChangeIn(In):
    """A change of a product's allotment by a number of units."""

    change: AllotmentChange


class RefundIn(In, kw_only=True):
    """A request for a refund."""

    amount: Annotated[
        Annotated[str, Meta(extra_json_schema=PRICE_SCHEMA)] | None,
        shown("How much, as a decimal number; null: all that is left.", "49.99"),
    ] = None
    restock: Annotated[
        bool, shown("Whether the units are sold again once the money is back; only with all of it.", True)
    ] = False
    reason: Annotated[
        str, shown("Why, for the shop's own records.", "Arrived broken", min_length=1, max_length=REASON_CHARS_MAX)
    ]


class RefundOut(Out, kw_only=True):
    """A refund of an order."""

    order_id: OrderId
    number: Annotated[int, shown("Counts the refunds of the order.", 1, ge=1)]
    amount: Annotated[str, shown("How much, as a decimal number.", "49.99")]
    currency: Currency
    restock: Annotated[bool, shown("Whether the units are sold again once the money is back.", False)]
    reason: Annotated[str, shown("Why.", "Arrived broken")]
    requested_by: Annotated[
        UUID | None, shown("The account that asked for it; null: it was made at the provider.", USER_ID)
    ]
    state: Annotated[RefundState, shown("What became of it; a refund that failed left the money taken.", "pending")]
    problem: Annotated[str | None, shown("What kept it from succeeding last.", "charge_disputed")]
    created_at: CreatedAt
    finished_at: Annotated[datetime | None, shown("When it succeeded or failed.", MOMENT)]


Reference = Annotated[
    str,
    shown(
        "What identifies the money outside, such as the text of a bank transfer.",
        "transfer 2026-11-27/4711",
        min_length=1,
        max_length=REFERENCE_CHARS_MAX,
    ),
]


class ManualPaymentIn(In, kw_only=True):
    """A payment that came outside."""

    reference: Reference
    amount: Annotated[
        str, shown("The amount that came: the order's total price.", "999.99", extra_json_schema=PRICE_SCHEMA)
    ]
    currency: NewCurrency


class ManualRefundIn(In, kw_only=True):
    """A refund that was made outside."""

    reference: Reference


class ManualEntryOut(Out, kw_only=True):
    """A payment or refund that an administrator recorded."""

    order_id: OrderId
    number: Annotated[int, shown("0 for the payment, otherwise the number of the refund.", 0, ge=0)]
    reference: Annotated[str, shown("What identifies the money outside.", "transfer 2026-11-27/4711")]
    amount: Annotated[str, shown("The amount, as a decimal number.", "999.99")]
    currency: Currency
    recorded_by: Annotated[UUID, shown("The account that recorded it first.", USER_ID)]
    recorded_at: Annotated[datetime, shown("When it was recorded.", MOMENT)]


def manual_entry_out(entry: ManualEntry) -> ManualEntryOut:
    """Render what an administrator recorded."""
    return ManualEntryOut(
        order_id=entry.order_id,
        number=entry.number,
        reference=entry.reference,
        amount=str(entry.amount),
        currency=entry.amount.currency,
        recorded_by=entry.recorded_by,
        recorded_at=entry.recorded_at,
    )


def refund_out(refund: OrderRefund) -> RefundOut:
    """Render a refund."""
    return RefundOut(
        order_id=refund.order_id,
        number=refund.number,
        amount=str(refund.amount),
        currency=refund.amount.currency,
        restock=refund.restock,
        reason=refund.reason,
        requested_by=refund.requested_by,
        state=refund.state,
        problem=refund.problem,
        created_at=refund.created_at,
        finished_at=refund.finished_at,
    )


def admin_product_out(product: Product, stock: LiveStock) -> AdminProductOut:
    """Render a product for administrators."""
    return AdminProductOut(**_admin_fields(product, stock))  # type: ignore[arg-type]


def product_figures_out(figures: ProductFigures) -> ProductFiguresOut:
    """Render a product with what was sold of it."""
    return ProductFiguresOut(
        **_admin_fields(figures.product, figures.stock),  # type: ignore[arg-type]
        claimed=figures.claimed,
        sold=figures.sold,
        revenue=str(figures.revenue),
        refunded=str(figures.refunded),
        files=figures.files,
    )


def _admin_fields(product: Product, stock: LiveStock) -> dict[str, object]:
    return {
        **product_fields(product, stock),
        "unmade_units": product.unmade,
        "epoch": product.epoch,
    }
