"""What Postgres knows of the intents under which buyers pay: `payment_intents`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.domain.traces import NO_ORIGIN, Origin

if TYPE_CHECKING:
    from flashsale.domain.money import Money
    from flashsale.domain.orders import OrderStatus
    from flashsale.domain.payments import PaymentTerms


class KnownState(enum.StrEnum):
    """How far an intent is. `intent_rank_v1` in Postgres has the same order: of two states the later one stays."""

    # Its row is committed and the provider is being asked. Nobody has its secret.
    OPENING = "opening"
    # The buyer may pay it.
    OPEN = "open"
    # Opening it had no clear answer, so nobody ever gets its secret. A job finds it by its key and cancels it.
    LOST = "lost"
    # The money is held. In time: a job captures it. Else: a job cancels it.
    AUTHORIZED = "authorized"
    # It can never be charged. Final.
    CANCELLED = "cancelled"
    # The money was taken. Final if it paid the order; else a job gives it back.
    CAPTURED = "captured"
    # The order had ended, and all the money was given back. Final.
    REFUNDED = "refunded"


class Effect(enum.StrEnum):
    """What the word of the provider changed; `merge_intent_v1` in Postgres says when."""

    REQUESTED = "requested"
    CONFIRMED = "confirmed"
    DIFFERS = "differs"
    UNWANTED = "unwanted"
    FOREIGN = "foreign"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownIntent:
    """An intent of an order, as the buyer's page needs it."""

    number: int
    state: KnownState
    reference: str | None
    client_secret: str | None
    page_url: str | None
    differs: bool
    """Whether the provider holds another amount or currency than the order's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunIntent:
    """An intent that a buyer asked for, as the provider is asked to open it."""

    intent: KnownIntent
    amount: Money
    terms: PaymentTerms
    origin: Origin = NO_ORIGIN
    """The HTTP request that made the order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueIntent:
    """An intent of which something may still come."""

    number: int
    provider: str
    reference: str | None
    state: KnownState
    amount: Money
    looks: int
    """Looks since the state changed."""
    terms: PaymentTerms
    unwanted: bool
    """Whether its order ended without it, or nobody can pay it: it is to be cancelled, or its money given back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What became of the word of the provider."""

    effect: Effect
    number: int | None
    """Of the intent; None if it has no row."""
    state: KnownState | None
    status: OrderStatus | None
    """The order's, None if no order of ours is named."""
    origin: Origin = NO_ORIGIN
    """The HTTP request that made the order."""
