"""Payment attempts, what they came to, and what a provider answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentAttempt:
    """An open attempt, committed before the gateway is called."""

    order_id: UUID
    product_id: int
    attempt: int
    tries: int
    """Earlier attempts that may have reached the gateway."""
    unknown: bool
    """Whether an earlier attempt ended without an answer."""
    gateway_key: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentResult:
    """What an attempt came to."""

    order_id: UUID
    attempt: int
    outcome: ChargeOutcome
    reference: str | None
    retry_after_s: float
    """When an attempt without a definite outcome is followed by another one."""


class ChargeOutcome(enum.StrEnum):
    """The answer of the gateway, or its absence."""

    CAPTURED = "captured"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    # The gateway may have done anything.
    UNKNOWN = "unknown"
    # The gateway was not reached, or refused the call before it looked at it. Says nothing about earlier calls.
    UNSENT = "unsent"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeAnswer:
    """The gateway's answer under a key."""

    key: str
    outcome: ChargeOutcome
    reference: str | None
    """The gateway's id of the charge, the decline code, or why the call was not sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One key of the gateway's own ledger."""

    key: str
    status: str
    amount_minor: int
    currency: str
    refunded_minor: int
    captures: int
    reference: str | None
    """The gateway's id of the charge; None if its ledger does not name it."""
