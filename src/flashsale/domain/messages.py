"""Messages of the outbox: of which events, what they say, and when a failed one is sent again."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flashsale.domain.money import Money

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

VERSION = 1
"""Of the payload. A version only ever gets more fields; a field that changes its meaning makes a new version."""

MAIL = "mail"
"""The target that stands for the buyers."""


class Event(enum.StrEnum):
    """What is told; the triggers `note_order_event`, `note_late_refund`, `note_failed_refund` and `note_sold_out` write
    the same names.
    """

    ORDER_CONFIRMED = "order.confirmed"
    ORDER_PAYMENT_FAILED = "order.payment_failed"
    ORDER_EXPIRED = "order.expired"
    ORDER_CANCELLED = "order.cancelled"
    # Money was given back: all of it, a part of it, or money that did not pay the order.
    ORDER_REFUNDED = "order.refunded"
    # Money that should have gone back did not: the shop has it, and a person must give it back in another way.
    ORDER_REFUND_FAILED = "order.refund_failed"
    # The last free unit of a product was taken. Units may come back.
    STOCK_SOLD_OUT = "stock.sold_out"


MAILED = (
    Event.ORDER_CONFIRMED,
    Event.ORDER_PAYMENT_FAILED,
    Event.ORDER_EXPIRED,
    Event.ORDER_REFUNDED,
    Event.ORDER_REFUND_FAILED,
)
"""What buyers are told. They cancelled themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is told: an endpoint of the shop, or with neither URL nor secret the buyers."""

    target_id: str
    url: str | None
    secret: str | None

    def __repr__(self) -> str:
        """Leave out the secret: a log may hold this."""
        return f"Target({self.target_id})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTarget:
    """A target without its secret, for the operator."""

    target_id: str
    url: str | None
    events: Sequence[str]
    created_at: datetime
    waiting: int
    dead: int
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """A message that was given up."""

    message_id: UUID
    target_id: str
    event: str
    order_id: UUID | None
    product_id: int
    created_at: datetime
    ended_at: datetime
    attempts: int
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of which a try has begun."""

    message_id: UUID
    """The same at each try: receivers drop what they have seen."""
    event: Event
    order_id: UUID | None
    facts: Mapping[str, Any]
    """What the trigger wrote."""
    created_at: datetime
    attempts: int
    """Tries that were begun, this one included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a message was not delivered."""

    problem: str
    final: bool = False
    """Whether a repetition is no use."""
    retry_after_s: float | None = None
    """How long the target wants to be left alone."""


def total_of(facts: Mapping[str, Any]) -> Money:
    """Return the price of an order."""
    return Money(minor=facts["unit_price_minor"], currency=facts["currency"]).times(facts["quantity"])


def refund_of(facts: Mapping[str, Any]) -> Money:
    """Return what was given back now, or was not; messages of older releases tell of the whole price only."""
    return _back(facts, "refund_minor") if "refund_minor" in facts else total_of(facts)


def _back(facts: Mapping[str, Any], name: str) -> Money:
    return Money(minor=facts[name], currency=facts["currency"])


def body_of(message: Message) -> bytes:
    """Return a message as an endpoint gets it: the same bytes at each try."""
    facts = message.facts
    data: dict[str, Any] = {"productId": facts["product_id"], "productName": facts["product_name"]}
    if message.order_id is None:
        data["stockVersion"] = facts["stock_version"]
    else:
        data |= {
            "orderId": facts["order_id"],
            "userId": facts["user_id"],
            "status": facts["status"],
            "orderVersion": facts["order_version"],
            "quantity": facts["quantity"],
            "price": str(Money(minor=facts["unit_price_minor"], currency=facts["currency"])),
            "totalPrice": str(total_of(facts)),
            "currency": facts["currency"],
            "createdAt": _instant(datetime.fromisoformat(facts["created_at"])),
        }
    if "refund_minor" in facts:
        data |= {
            "refund": str(refund_of(facts)),
            "refunded": str(_back(facts, "refunded_minor")),
            "unused": bool(facts.get("unused")),
        }
    content = {"type": message.event, "version": VERSION, "timestamp": _instant(message.created_at), "data": data}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def pause_s(attempts: int, *, first_s: float, longest_s: float, luck: float) -> float:
    """Return how long a message waits after its try number `attempts` failed: doubling, and a half to one and a half
    times that by `luck` (0 to 1), so that messages that failed together do not come back together.
    """
    return min(first_s * 2.0 ** min(attempts - 1, 30), longest_s) * (0.5 + luck)
