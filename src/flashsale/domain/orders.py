"""Orders: their states, the allowed moves between them, and what a buyer is shown."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.money import Money


class OrderStatus(enum.StrEnum):
    """The state of an order. `TRANSITIONS` lists the moves and a trigger guards them; docs/explanation/states.md."""

    # Accepted and durable, its units claimed. An order worker moves it on.
    QUEUED = "queued"
    # An order worker has it. The same transaction moves it on, so readers of the table never meet it.
    PROCESSING = "processing"
    # Waits for a payment worker (automatic) or for the buyer (by_buyer). Expires if the buyer does not pay in time.
    AWAITING_PAYMENT = "awaiting_payment"
    # A payment attempt is open: the gateway may be charging. Only that attempt's outcome moves it on.
    PROCESSING_PAYMENT = "processing_payment"
    # The gateway did not answer. The units stay claimed; a payment worker asks again under the same key.
    PAYMENT_UNKNOWN = "payment_unknown"
    # Paid. Final, but for a refund.
    CONFIRMED = "confirmed"
    # Definitely declined, or cancelled at the gateway. Final; the units went back.
    PAYMENT_FAILED = "payment_failed"
    # The buyer did not pay in time. Final; the units went back.
    EXPIRED = "expired"
    # The buyer gave it up before paying. Final; the units went back.
    CANCELLED = "cancelled"
    # A system error after all retries, before any money moved. Final; the units went back.
    FAILED = "failed"
    # A refund of all that is left was asked for. The provider's answer moves it on, or back.
    REFUND_PENDING = "refund_pending"
    # The money is back. Final; the units are sold again only if the refund said so.
    REFUNDED = "refunded"


_S = OrderStatus

TRANSITIONS: frozenset[tuple[OrderStatus, OrderStatus]] = frozenset(
    {
        (_S.QUEUED, _S.PROCESSING),
        (_S.QUEUED, _S.FAILED),
        (_S.PROCESSING, _S.AWAITING_PAYMENT),
        (_S.PROCESSING, _S.FAILED),
        (_S.AWAITING_PAYMENT, _S.PROCESSING_PAYMENT),
        (_S.AWAITING_PAYMENT, _S.EXPIRED),
        (_S.AWAITING_PAYMENT, _S.CANCELLED),
        (_S.AWAITING_PAYMENT, _S.FAILED),
        (_S.PROCESSING_PAYMENT, _S.CONFIRMED),
        (_S.PROCESSING_PAYMENT, _S.PAYMENT_FAILED),
        (_S.PROCESSING_PAYMENT, _S.PAYMENT_UNKNOWN),
        (_S.PAYMENT_UNKNOWN, _S.CONFIRMED),
        (_S.PAYMENT_UNKNOWN, _S.PAYMENT_FAILED),
        (_S.CONFIRMED, _S.REFUND_PENDING),
        (_S.REFUND_PENDING, _S.CONFIRMED),
        (_S.REFUND_PENDING, _S.REFUNDED),
    }
)
"""Every allowed move (from, to)."""

FINAL: frozenset[OrderStatus] = frozenset(
    {_S.CONFIRMED, _S.PAYMENT_FAILED, _S.EXPIRED, _S.CANCELLED, _S.FAILED, _S.REFUNDED}
)
"""States in which nothing is owed to the order any more."""

OVER: frozenset[OrderStatus] = frozenset(OrderStatus) - {before for before, _ in TRANSITIONS}
"""States that nothing follows. After `confirmed`, which is final too, money may be given back."""

RELEASING: frozenset[OrderStatus] = frozenset({_S.PAYMENT_FAILED, _S.EXPIRED, _S.CANCELLED, _S.FAILED})
"""States whose entry gives the order's units back, in the same transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as its owner sees it."""

    order_id: UUID
    user_id: UUID
    product_id: int
    product_name: str
    """The name when the order was accepted."""
    quantity: int
    unit_price: Money
    """The price of one unit when the order was accepted."""
    status: OrderStatus
    version: int
    """Rises by one with every transition."""
    changes: int = 0
    """Rises by one when something else changes of what the buyer is shown."""
    payment_requested: bool
    """Whether the buyer of a `by_buyer` order has asked to pay."""
    pay_by: datetime | None = None
    """Until when the buyer may pay, by Postgres' clock; None if the order does not wait for its buyer."""
    refunded_minor: int = 0
    """What is back of the price, in minor units."""
    created_at: datetime
    updated_at: datetime

    @property
    def total_price(self) -> Money:
        """What the buyer pays in all."""
        return self.unit_price.times(self.quantity)

    @property
    def refunded(self) -> Money:
        """What is back of the price."""
        return replace(self.unit_price, minor=self.refunded_minor)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFilter:
    """Which orders are looked for; None: any."""

    product_id: int | None = None
    status: OrderStatus | None = None
    email: str | None = None
    """The buyer's address: as it was registered, or another form of it."""
    created_from: datetime | None = None
    created_to: datetime | None = None
    """The first instant that is too late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundOrder:
    """An order with what administrators see in addition."""

    order: Order
    email: str
    """The buyer's address."""
