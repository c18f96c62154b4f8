"""The test payment methods, and what the bank says to each: https://docs.stripe.com/testing?testing-method=payment-methods."""

from __future__ import annotations

from dataclasses import dataclass

from flashsale.simulator.stripe.errors import invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a test card does."""

    code: str | None = None
    """The error's code, if the bank declines."""
    decline_code: str | None = None
    asks_the_buyer: bool = False
    """The bank wants the buyer to authenticate (3-D Secure)."""
    disputed: bool = False
    """The buyer's bank asks for the money back as soon as it was taken."""
    refund: str = "succeeded"
    """The status of a new refund."""
    drawn: bool = False
    """The bank declines some of the payments, as `decline_rate` says."""


def _declining(decline_code: str, code: str = "card_declined") -> Card:
    return Card(code=code, decline_code=decline_code)


CARDS = {
    "pm_card_visa": Card(drawn=True),
    "pm_card_mastercard": Card(drawn=True),
    "pm_card_chargeDeclined": _declining("generic_decline"),
    "pm_card_visa_chargeDeclined": _declining("generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": _declining("insufficient_funds"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": _declining("insufficient_funds"),
    "pm_card_chargeDeclinedLostCard": _declining("lost_card"),
    "pm_card_visa_chargeDeclinedLostCard": _declining("lost_card"),
    "pm_card_chargeDeclinedExpiredCard": _declining("expired_card", "expired_card"),
    "pm_card_chargeDeclinedProcessingError": _declining("processing_error", "processing_error"),
    "pm_card_threeDSecure2Required": Card(asks_the_buyer=True),
    "pm_card_authenticationRequired": Card(asks_the_buyer=True),
    "pm_card_createDispute": Card(disputed=True),
    "pm_card_pendingRefund": Card(refund="pending"),
    # Its refunds succeed at first and fail later.
    "pm_card_refundFail": Card(),
}
DRAWN_DECLINES = (
    ("card_declined", "generic_decline"),
    ("card_declined", "insufficient_funds"),
    ("expired_card", "expired_card"),
    ("card_declined", "do_not_honor"),
)
"""Code and decline code of the declines that are drawn."""


def card(method: str) -> Card:
    """Return what a payment method does.

    Raises:
        StripeError: 400 if it is none of the test payment methods.
    """
    if method not in CARDS:
        raise invalid("payment_method", f"No such PaymentMethod: '{method}'", "resource_missing")
    return CARDS[method]
