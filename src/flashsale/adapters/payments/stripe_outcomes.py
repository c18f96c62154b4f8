"""What an answer of Stripe means for an order's charge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from flashsale.adapters.payments.stripe_answers import MISSING, NOT_FOUND, Failure
from flashsale.domain.payments import ChargeAnswer, ChargeOutcome, IntentState, NoAnswer, NoAnswerKind

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.payments import Intent

log = structlog.get_logger(__name__)


def answer_of(
    outcome: ChargeOutcome, reference: str | None, intent: str | None = None, retry_after_s: float | None = None
) -> ChargeAnswer:
    """Return an answer about a charge."""
    return ChargeAnswer(outcome=outcome, reference=reference, intent=intent, retry_after_s=retry_after_s)


def settled(intent: Intent) -> ChargeAnswer:
    """Read what an intent says about its money; one that is open or held says nothing yet."""
    outcome = {
        IntentState.CAPTURED: ChargeOutcome.CAPTURED,
        IntentState.CANCELLED: ChargeOutcome.CANCELLED,
    }.get(intent.state, ChargeOutcome.UNKNOWN)
    return answer_of(outcome, intent.reference, intent.reference)


def other_intent(order_id: UUID, found: Intent) -> ChargeAnswer:
    """Say that an intent of another order or amount decides nothing; only one of this order is named."""
    log.error("gateway.other_intent", order_id=str(order_id), intent=found.reference)
    return answer_of(ChargeOutcome.UNKNOWN, None, found.reference if found.order_id == order_id else None)


def charge_failure(failure: Failure, intent: str | None = None) -> ChargeAnswer:
    """Read what a failed call says about the order: only the bank's own no ends it."""
    intent = intent or failure.intent
    if failure.decline_code is not None:
        return answer_of(ChargeOutcome.DECLINED, failure.decline_code, intent)
    if failure.kind is NoAnswerKind.UNKNOWN:
        return answer_of(ChargeOutcome.UNKNOWN, None, intent, failure.retry_after_s)
    # A wrong secret or a defect of ours must not end an order.
    return answer_of(ChargeOutcome.UNSENT, failure.reason, intent, failure.retry_after_s)


def refund_failure(failure: Failure) -> NoAnswer:
    """Read what a failed call says about a refund: if its payment is not found, the key is another account's."""
    if failure.reason in {NOT_FOUND, MISSING}:
        return NoAnswer(kind=NoAnswerKind.UNSENT, reason=failure.reason)
    return failure.as_answer()


def unless_found(found: Intent | Failure) -> Intent | Failure:
    """Return what was found; nothing found where something may be says nothing."""
    if isinstance(found, Failure) and found.kind is not NoAnswerKind.UNKNOWN:
        return Failure(
            kind=NoAnswerKind.UNKNOWN, reason=found.reason, status=found.status, retry_after_s=found.retry_after_s
        )
    return found


def unknown(reason: str) -> Failure:
    """Return that nobody knows whether the call was carried out."""
    return Failure(kind=NoAnswerKind.UNKNOWN, reason=reason)
