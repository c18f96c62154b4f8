"""Refunds of an order: what is asked for, what became of it, and a try at the provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from flashsale.domain.money import Money
    from flashsale.domain.payments import RefundState

REASON_CHARS_MAX = 500

NUMBER_MAX = 2**31 - 1
"""Highest number that a refund of an order may have."""

WITHDRAWN = "withdrawn"
"""The problem of a refund that failed because somebody withdrew it; `withdraw_refund_v1` writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRefund:
    """A refund that somebody asks for."""

    order_id: UUID
    amount_minor: int | None
    """None: all that is left."""
    restock: bool
    """Whether the units are released when the money is back; only with all of it."""
    reason: str
    requested_by: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRefund:
    """A refund of an order."""

    order_id: UUID
    number: int
    """Counts the refunds of the order from 1."""
    amount: Money
    restock: bool
    reason: str
    requested_by: UUID | None
    """None: it was made at the provider, not here."""
    state: RefundState
    problem: str | None
    """What kept it from succeeding last."""
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundTry:
    """A try of a pending refund, committed before the provider is called."""

    order_id: UUID
    number: int
    attempt: int
    sent: bool
    """Whether the call of an earlier try may have been made."""
    key: str
    reference: str
    """The provider's id of the charge."""
    amount: Money
