"""What Stripe's objects and errors say, in the words of the port."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import stripe

from flashsale.adapters.payments.stripe_amounts import from_stripe
from flashsale.domain.errors import InvalidInput
from flashsale.domain.payments import Intent, IntentState, NoAnswer, NoAnswerKind, Refund, RefundState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashsale.domain.money import Money

STATES = {
    "requires_payment_method": IntentState.OPEN,
    "requires_confirmation": IntentState.OPEN,
    "requires_action": IntentState.OPEN,
    "processing": IntentState.OPEN,
    "requires_capture": IntentState.AUTHORIZED,
    "succeeded": IntentState.CAPTURED,
    "canceled": IntentState.CANCELLED,
}
REFUND_STATES = {
    "succeeded": RefundState.SUCCEEDED,
    "failed": RefundState.FAILED,
    "canceled": RefundState.FAILED,
    "pending": RefundState.PENDING,
    "requires_action": RefundState.PENDING,
}

UNEXPECTED_STATE = "payment_intent_unexpected_state"

WRONG_KEY = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
"""No call succeeds until somebody changes the key, or its rights. Then the same call may."""
NOT_FOUND = "not found"
FOREIGN = "of no order"
MISSING = "resource_missing"
"""The code of an object that a parameter names and that does not exist."""
KEY_IN_USE_S = 1.0
"""How long to wait for a call that is under way under the same key."""

REJECTED_S = 1.0
"""How long to wait after a 429 that does not say it."""

PAUSE_S_MAX = 300.0
"""Longest pause that an answer can ask for: Stripe asks for seconds, and a proxy before Stripe could be wrong."""

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput)
"""What the functions below raise for an answer that is none of Stripe's."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error of Stripe's, or of the way to it."""

    kind: NoAnswerKind
    reason: str
    """The error's code, or its status."""
    status: int = 0
    """0: no answer."""
    retry_after_s: float | None = None
    replayed: bool = False
    """The key keeps this answer, so the call that gave it has ended."""
    intent: str | None = None
    decline_code: str | None = None
    """The bank said no: the definite end of what the key asked for."""
    order_id: UUID | None = None
    """The order of a row of a list that cannot be read."""

    def as_answer(self) -> NoAnswer:
        """Return what the use cases see."""
        return NoAnswer(kind=self.kind, reason=self.reason, retry_after_s=self.retry_after_s)


def read_failure(error: stripe.StripeError) -> Failure:
    """Read an error: UNSENT and REFUSED only where Stripe's documents say that nothing was done.

    https://docs.stripe.com/api/errors, https://docs.stripe.com/error-low-level
    """
    status = error.http_status or 0
    headers: Mapping[str, str] = error.headers or {}
    member = _error_members(error)
    code = _word(member.get("code")) or _word(member.get("type")) or f"status {status}"
    intent = member.get("payment_intent")
    about: dict[str, Any] = {
        "status": status,
        "intent": intent.get("id")
        if isinstance(intent, dict) and _word(intent.get("id")) == intent.get("id")
        else None,
        "replayed": str(headers.get("Idempotent-Replayed", "")).lower() == "true",
    }
    if status == HTTPStatus.PAYMENT_REQUIRED and member.get("type") == "card_error":
        said = _word(member.get("decline_code")) or code
        return Failure(kind=NoAnswerKind.REFUSED, reason=code, decline_code=said, **about)
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.CONFLICT}:
        pause_s = REJECTED_S if status == HTTPStatus.TOO_MANY_REQUESTS else KEY_IN_USE_S
        return Failure(
            kind=NoAnswerKind.UNSENT,
            reason=code,
            retry_after_s=_seconds(headers.get("Retry-After")) or pause_s,
            **about,
        )
    if status in WRONG_KEY:
        return Failure(kind=NoAnswerKind.UNSENT, reason=code, **about)
    if member and HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        reason = NOT_FOUND if status == HTTPStatus.NOT_FOUND else code
        return Failure(kind=NoAnswerKind.REFUSED, reason=reason, **about)
    # 5xx, or no word of Stripe's, such as the page of a proxy: perhaps it was done.
    return Failure(kind=NoAnswerKind.UNKNOWN, reason=code, **about)


def _error_members(error: stripe.StripeError) -> Mapping[str, Any]:
    body = error.json_body
    member = body.get("error") if isinstance(body, dict) else None
    return member if isinstance(member, dict) else {}


WORD_CHARS_MAX = 200
"""Longest word of the provider that is kept."""


def _word(said: object) -> str | None:
    """Return what a member says, as Postgres and a log can keep it; None if it says nothing."""
    text = str(said)[:WORD_CHARS_MAX] if said else ""
    return "".join(one if one.isprintable() else "?" for one in text) or None


def read_id(said: object) -> str:
    """Read an id.

    Raises:
        ValueError: if it is none, or cannot be kept as it is.
    """
    if not isinstance(said, str) or _word(said) != said:
        raise ValueError("no id")
    return said


def _seconds(text: str | None) -> float | None:
    return min(float(text), PAUSE_S_MAX) if text is not None and text.isdecimal() else None


def read_intent(found: Any) -> Intent:
    """Read a payment intent, with its charge if that was expanded.

    Raises:
        ValueError, KeyError, TypeError, InvalidInput: if it is none.
    """
    charge = found.get("latest_charge")
    charge = charge if isinstance(charge, dict) else {}
    problem = found.get("last_payment_error") or {}
    state = STATES[found["status"]]
    is_captured = state is IntentState.CAPTURED
    # What a cancellation, or a capture of a part, lets go counts as refunded on the charge; it was never taken.
    let_go = charge.get("amount", 0) - charge.get("amount_captured", charge.get("amount", 0))
    refunded = max(0, (charge.get("amount_refunded") or 0) - let_go) if is_captured else 0
    # Somebody may capture a part in the dashboard. Only what was taken pays an order.
    amount = (found.get("amount_received") if is_captured else None) or found["amount"]
    return Intent(
        reference=read_id(found["id"]),
        order_id=_order_id(found.get("metadata") or {}),
        state=state,
        amount=from_stripe(amount, found["currency"]),
        refunded_minor=from_stripe(refunded, found["currency"]).minor,
        disputed=bool(charge.get("disputed")),
        client_secret=found.get("client_secret"),
        page_url=None,
        decline_code=_word(problem.get("decline_code") or problem.get("code")) if state is IntentState.OPEN else None,
        created_at=datetime.fromtimestamp(found["created"], UTC),
        fee=_fee(charge.get("balance_transaction")),
    )


def unless_foreign(read: Callable[[Any], T]) -> Callable[[Any], T | Failure]:
    """Read what a webhook names: of others, who share the account, it may be a thing that nobody here can read.

    To ask again for such a thing would never end, and count as an outage of the provider.
    """

    def read_ours(found: Any) -> T | Failure:
        try:
            return read(found)
        except UNREADABLE:
            if _order_id(found.get("metadata") or {}) is None:
                return Failure(kind=NoAnswerKind.REFUSED, reason=FOREIGN, status=HTTPStatus.OK)
            raise

    return read_ours


def read_rows(page: Any, read: Callable[[Any], T]) -> tuple[list[T | Failure], str | None]:
    """Read a page of a list, and the last id of the page if there is another page.

    A row that cannot be read hides no other row: if it names an order of ours, a failure stands in its place. Rows of
    others, who share the account, may have states and currencies that nobody here knows; they are left out.
    """
    found: list[T | Failure] = []
    for one in page["data"]:
        try:
            found.append(read(one))
        except UNREADABLE as error:
            order_id = _order_id(one.get("metadata") or {})
            if order_id is not None:
                reason = f"{_word(one.get('id'))} cannot be read ({type(error).__name__})"
                found.append(Failure(kind=NoAnswerKind.UNKNOWN, reason=reason, order_id=order_id))
    return found, page["data"][-1]["id"] if page["has_more"] and page["data"] else None


def _fee(entry: Any) -> Money | None:
    """Read the fee of an entry in the balance, if that was expanded; it may be in another currency than the charge."""
    return from_stripe(entry["fee"], entry["currency"]) if isinstance(entry, dict) else None


def _order_id(metadata: Mapping[str, str]) -> UUID | None:
    try:
        return UUID(metadata["order_id"])
    except (KeyError, ValueError):
        return None


def read_refund(found: Any) -> Refund:
    """Read a refund.

    Raises:
        ValueError, KeyError, TypeError, InvalidInput: if it is none.
    """
    return Refund(
        reference=read_id(found["id"]),
        intent=read_id(found["payment_intent"]),
        key=_word((found.get("metadata") or {}).get("refund_key")),
        state=REFUND_STATES[found["status"]],
        amount=from_stripe(found["amount"], found["currency"]),
        reason=_word(found.get("failure_reason")),
    )


def made_at(order_id: UUID) -> float:
    """Return when an order was made, in Unix time: its id is a UUIDv7."""
    return (order_id.int >> 80) / 1000
