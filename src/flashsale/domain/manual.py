"""Money that an operator saw come, or gave back: what the provider `manual` knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from flashsale.domain.money import Money

REFERENCE_CHARS_MAX = 255

PAYMENT = 0
"""The number of the entry of an order's payment; the entries of its refunds have the numbers of the refunds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualEntry:
    """A payment or refund of an order that an operator recorded."""

    order_id: UUID
    number: int
    """0: the payment; else which refund of the order."""
    reference: str
    """What identifies the money outside, such as the text of a bank transfer."""
    amount: Money
    recorded_by: UUID
    """The administrator who recorded it first."""
    recorded_at: datetime
