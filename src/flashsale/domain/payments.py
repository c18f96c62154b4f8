"""Payment attempts, what they came to, and what a provider answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.domain.traces import NO_ORIGIN, Origin

if TYPE_CHECKING:
    from datetime import datetime
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
    never_asked: bool
    """Whether certainly no call for the order has reached the gateway."""
    gateway_key: str
    amount: Money
    reference: str | None = None
    """The provider's id of the order's intent, if it is known."""
    origin: Origin = NO_ORIGIN
    """The HTTP request that made the order."""


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
    """What became of an order's charge."""

    outcome: ChargeOutcome
    reference: str | None
    """The gateway's id of the charge, the decline code, or why the call was not sent."""
    intent: str | None = None
    """The provider's id of the intent, once it is known, whatever the outcome."""
    retry_after_s: float | None = None
    """When to ask again, if the provider or its budget said so."""


class IntentState(enum.StrEnum):
    """How far the provider is with an order's money."""

    # The buyer or the bank must act.
    OPEN = "open"
    # The money is held and not taken.
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    # It can never be charged.
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What the provider holds for an order: one try to pay it, from its opening to its capture or its end."""

    reference: str
    """The provider's id."""
    order_id: UUID | None
    """The order that it was opened for; None if it is not one of ours."""
    state: IntentState
    amount: Money
    refunded_minor: int
    disputed: bool
    client_secret: str | None
    """What a page needs to let the buyer pay in place."""
    page_url: str | None
    """The provider's own page, on which the buyer pays."""
    decline_code: str | None
    """Why the last try failed, while the intent is open."""
    created_at: datetime
    fee: Money | None = None
    """What the provider kept of the money, in the currency of its payout; None: it was not asked, or tells none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentTerms:
    """What a page of the provider needs to know of a payment; the same each time that an intent is asked for."""

    name: str
    """What is paid for, as the buyer sees it."""
    window_s: int
    """The product's payment window."""
    asked_at: datetime
    """When the intent was asked for first."""
    pay_by: datetime
    """The end of the buyer's time, as it was then."""


class NoAnswerKind(enum.StrEnum):
    """What the absence of an answer says."""

    # It may have happened.
    UNKNOWN = "unknown"
    # It did not happen: not sent, or rejected before the provider looked at it.
    UNSENT = "unsent"
    # The provider says that the call is wrong: nothing happened, and repeating it is no use.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """A call whose answer is not known, or that did nothing."""

    kind: NoAnswerKind
    reason: str
    retry_after_s: float | None = None
    """When to ask again, if the provider or its budget said so."""


class RefundState(enum.StrEnum):
    """How far the provider is with a refund."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """Money that the provider gives back, or does not."""

    reference: str
    """The provider's id of the refund."""
    intent: str
    key: str | None
    """Our key; None: it was made elsewhere, such as in the provider's dashboard."""
    state: RefundState
    amount: Money
    reason: str | None
    """Why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """A webhook whose signature holds. Nothing else of its payload is trusted: the object itself is fetched."""

    event_id: str
    type: str
    reference: str | None
    """The id of the intent that it is about."""
    created_at: datetime


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
