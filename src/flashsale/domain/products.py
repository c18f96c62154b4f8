"""Products: what is on sale, when, and to whom how many."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from flashsale.domain.money import Money

PRODUCT_ID_MAX = 2**31 - 1
"""Product ids are 4-byte integers, so that an id and the lock's class fit into an advisory lock."""

ALLOTMENT_MAX = 10_000_000
"""Most units of one product: one row each, made as they are sold."""

QUANTITY_MAX = 100
"""Most units in one order."""


COOLDOWN_S_MAX = 86_400
"""Longest cool-down after units that were not paid for."""


class PaymentMode(enum.StrEnum):
    """Who starts the payment of an order."""

    # A payment worker charges as soon as the order worker is done.
    AUTOMATIC = "automatic"
    # The order waits until the buyer pays or the payment window is over.
    BY_BUYER = "by_buyer"


class LimitPer(enum.StrEnum):
    """Whose units a product's limit counts together."""

    ACCOUNT = "account"
    # All accounts whose e-mail addresses differ only in a tag after a plus (`email_root_v1`).
    EMAIL_ROOT = "email_root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product as Postgres has it. `starts_at <= now < ends_at` is the sale window; None leaves that side open."""

    product_id: int
    name: str
    price: Money
    allotment: int
    """Units that exist."""
    unmade: int
    """Units that have no row yet; negative: rows of units that exist no more and are being deleted."""
    payment_mode: PaymentMode
    payment_window_s: int
    """How long an order of a `by_buyer` product waits for its buyer."""
    limit_per: LimitPer = LimitPer.ACCOUNT
    limit_per_buyer: int | None
    """Most units that one buyer's live and confirmed orders may hold; None for no limit."""
    cooldown_s: int = 0
    """How long units that a buyer held and did not pay for count toward the limit, after they are free again."""
    refundable_by_buyer: bool = False
    """Whether the buyer of a paid order may ask for the money back."""
    starts_at: datetime | None
    ends_at: datetime | None
    paused: bool
    epoch: int
    """Changes whenever the gate is loaded from Postgres; a lease of another epoch is not accepted."""
    version: int = 1
    """Rises with each change of what is shown of the product; that of its units counts in `LiveStock`."""
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None
    """When it was archived: it is in no list but that of archived products, is paused, and never changes again."""
    moved_to: int | None = None
    """The product of another cell that it became."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStock:
    """Free units of a product after change number `version`."""

    product_id: int
    free: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProduct:
    """What a new product is made from; see `Product` for the meanings."""

    name: str
    price: Money
    allotment: int
    payment_mode: PaymentMode
    payment_window_s: int
    limit_per_buyer: int | None
    limit_per: LimitPer = LimitPer.ACCOUNT
    cooldown_s: int = 0
    refundable_by_buyer: bool = False
    starts_at: datetime | None
    ends_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductChange:
    """What an administrator changes; a field left out stays. `None` opens a side of the window or the limit."""

    fields: dict[str, object]
    """Among name, limit_per_buyer, limit_per, cooldown_s, starts_at, ends_at, paused, payment_window_s."""


PAUSED, RESUMED = ProductChange(fields={"paused": True}), ProductChange(fields={"paused": False})
"""An operator's changes."""
