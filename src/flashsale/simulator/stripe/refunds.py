"""Refunds and disputes: https://docs.stripe.com/refunds and https://docs.stripe.com/disputes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flashsale.simulator.stripe.cards import card
from flashsale.simulator.stripe.errors import StripeError, invalid, missing
from flashsale.simulator.stripe.money import checked_amount, ledger_minor
from flashsale.simulator.stripe.store import Change, Object, new_id

if TYPE_CHECKING:
    from flashsale.simulator.stripe.calls import Call

REASONS = ("duplicate", "fraudulent", "requested_by_customer")


def create(call: Call) -> Object:
    """POST /v1/refunds: https://docs.stripe.com/api/refunds/create. Without `amount`, all that is left."""
    charge, intent = _charged(call)
    amount = call.form.integer("amount", least=-(10**15))
    reason, metadata = call.form.text("reason"), call.form.metadata()
    if reason is not None and reason not in REASONS:
        raise invalid("reason", f"Invalid reason: must be one of {', '.join(REASONS)}")
    if charge["disputed"]:
        raise StripeError(
            400,
            "The charge you're attempting to refund has been charged back.",
            code="charge_disputed",
            executed=True,
        )
    left = charge["amount"] - charge["amount_refunded"]
    if left == 0:
        raise StripeError(
            400, f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded", executed=True
        )
    amount = left if amount is None else checked_amount(amount, charge["currency"])
    if amount > left:
        raise StripeError(
            400,
            f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})",
            param="amount",
            executed=True,
        )
    status = card(intent["payment_method"]).refund
    refund = {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "charge": charge["id"],
        "created": int(time.time()),
        "currency": charge["currency"],
        "failure_reason": None,
        "metadata": metadata,
        "payment_intent": intent["id"],
        "reason": reason,
        "status": status,
    }
    given = ledger_minor(amount, charge["currency"])
    call.change.move("refund", intent["id"], refundKey=refund["id"], amountMinor=given)
    refunded = charge["amount_refunded"] + amount
    call.change.put(
        {**charge, "amount_refunded": refunded, "refunded": refunded == charge["amount"]}, "charge.refunded"
    )
    return call.change.put(refund, "refund.created")


def _charged(call: Call) -> tuple[Object, Object]:
    """Return the charge that took money, and its intent."""
    named, charge_id = call.form.text("payment_intent"), call.form.text("charge")
    if named is None:
        if charge_id is None:
            raise invalid("charge", "One of the following params should be provided: payment_intent or charge.")
        named = call.change.get("charge", charge_id, "charge")["payment_intent"]
    intent = call.change.get("payment_intent", named, "payment_intent")
    if intent["status"] != "succeeded":
        raise StripeError(
            400,
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
            code="payment_intent_unexpected_state",
            executed=True,
        )
    return call.change.get("charge", intent["latest_charge"]), intent


def settle(call: Call) -> Object:
    """POST /v1/test_helpers/refunds/{id}/{succeed,fail}: what a bank says about a refund later, at a test's command."""
    refund = call.change.get("refund", call.ids["id"])
    if call.ids["end"] == "succeed":
        return call.change.put({**refund, "status": "succeeded"}, "refund.updated")
    if call.ids["end"] != "fail":
        raise missing("refund end", call.ids["end"])
    if refund["status"] == "failed":
        return refund
    charge = call.change.get("charge", refund["charge"])
    call.change.move("refund_failed", refund["payment_intent"], refundKey=refund["id"])
    call.change.put({**charge, "amount_refunded": charge["amount_refunded"] - refund["amount"], "refunded": False})
    failed = {**refund, "status": "failed", "failure_reason": "expired_or_canceled_card"}
    return call.change.put(failed, "refund.updated", "refund.failed")


def open_dispute(change: Change, charge: Object) -> Object:
    """Let the buyer's bank ask for the money back."""
    dispute = {
        "id": new_id("du"),
        "object": "dispute",
        "amount": charge["amount_captured"],
        "charge": charge["id"],
        "created": int(time.time()),
        "currency": charge["currency"],
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": "fraudulent",
        "status": "needs_response",
    }
    change.move("dispute", charge["payment_intent"])
    change.put({**charge, "disputed": True, "dispute": dispute["id"]})
    return change.put(dispute, "charge.dispute.created")


def dispute(call: Call) -> Object:
    """POST /v1/test_helpers/payment_intents/{id}/dispute: the bank of a buyer who paid, at a test's command."""
    intent = call.change.get("payment_intent", call.ids["id"], "intent")
    if intent["status"] != "succeeded":
        raise StripeError(400, f"Only money that was taken can be disputed; the status is {intent['status']}.")
    return open_dispute(call.change, call.change.get("charge", intent["latest_charge"]))
