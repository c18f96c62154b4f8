"""PaymentIntents: https://docs.stripe.com/payments/paymentintents/lifecycle.

requires_payment_method -> requires_confirmation -> (requires_action) -> requires_capture -> succeeded; or canceled,
from each but the last. A decline goes back to requires_payment_method.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from flashsale.simulator.stripe.cards import Card, card
from flashsale.simulator.stripe.errors import StripeError, declined, invalid, unexpected_state
from flashsale.simulator.stripe.money import checked_amount, ledger_minor, read_currency
from flashsale.simulator.stripe.refunds import open_dispute
from flashsale.simulator.stripe.store import Change, Object, new_id, shown

if TYPE_CHECKING:
    from flashsale.simulator.stripe.calls import Call
    from flashsale.simulator.stripe.form import Form

CAPTURE_METHODS = ("automatic_async", "automatic", "manual")
CANCELLABLE = ("requires_payment_method", "requires_capture", "requires_confirmation", "requires_action", "processing")
CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
CANCEL_REASONS = ("duplicate", "fraudulent", "requested_by_customer", "abandoned")
IGNORED = (
    "automatic_payment_methods",
    "confirmation_method",
    "description",
    "off_session",
    "error_on_requires_action",
    "payment_method_options",
    "payment_method_types",
    "receipt_email",
    "return_url",
    "setup_future_usage",
    "statement_descriptor_suffix",
    "use_stripe_sdk",
)
"""Parameters that are accepted; some are read below."""


def create(call: Call) -> Object:
    """POST /v1/payment_intents: https://docs.stripe.com/api/payment_intents/create."""
    form = call.form
    form.know(*IGNORED)
    currency = read_currency(form)
    amount = checked_amount(form.integer("amount", least=-(10**15)), currency)
    method = form.text("payment_method")
    if method is not None:
        card(method)
    made = new_intent(
        call.change,
        amount=amount,
        currency=currency,
        capture_method=form.choice("capture_method", CAPTURE_METHODS, "automatic_async"),
        metadata=form.metadata(),
        method=method,
        description=form.text("description"),
        redirects="payment_method_types" not in form and _may_redirect(form),
    )
    return _confirm(call, made) if form.flag("confirm") else made


def new_intent(
    change: Change,
    *,
    amount: int,
    currency: str,
    capture_method: str,
    metadata: dict[str, str],
    method: str | None = None,
    description: str | None = None,
    redirects: bool = False,
) -> Object:
    """Make an intent that nobody has paid."""
    id_ = new_id("pi")
    order_id = metadata.get("order_id")
    change.move(
        "open",
        id_,
        amountMinor=ledger_minor(amount, currency),
        currency=currency.upper(),
        reference=None,
        intent=True,
        orderId=order_id,
    )
    return change.put(
        {
            "id": id_,
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": 0,
            "amount_received": 0,
            "automatic_payment_methods": {"allow_redirects": "always", "enabled": True} if redirects else None,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": capture_method,
            "client_secret": f"{id_}_secret_{secrets.token_urlsafe(18)}",
            "confirmation_method": "automatic",
            "created": int(time.time()),
            "currency": currency,
            "customer": None,
            "description": description,
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": metadata,
            "next_action": None,
            "payment_method": method,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "processing": None,
            "receipt_email": None,
            "setup_future_usage": None,
            "shipping": None,
            "status": "requires_confirmation" if method else "requires_payment_method",
            "transfer_data": None,
            "transfer_group": None,
            "_tries": 0,
            "_redirects": redirects,
        },
        "payment_intent.created",
    )


def confirm(call: Call) -> Object:
    """POST /v1/payment_intents/{id}/confirm: https://docs.stripe.com/api/payment_intents/confirm."""
    call.form.know(*IGNORED, "capture_method", "mandate_data", "payment_method_data", "expected_payment_method_type")
    return _confirm(call, call.change.get("payment_intent", call.ids["id"], "intent"))


def _confirm(call: Call, intent: Object) -> Object:
    if intent["status"] not in CONFIRMABLE:
        raise unexpected_state(
            "You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed."
            if intent["status"] == "succeeded"
            else f"This PaymentIntent's status is {intent['status']}, so it cannot be confirmed.",
            shown(intent),
        )
    method = call.form.text("payment_method") or intent["payment_method"]
    if method is None:
        raise invalid(
            "payment_method",
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the "
            "PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a "
            "payment method.",
            "payment_intent_unexpected_state",
        )
    if intent["_redirects"] and not call.public and "return_url" not in call.form:
        raise StripeError(
            400,
            "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of "
            "these payment methods might redirect your customer off of your page, you must provide a `return_url`. If "
            "you don't want to accept redirect-based payment methods, set `automatic_payment_methods[enabled]` to "
            "`true` and `automatic_payment_methods[allow_redirects]` to `never`.",
        )
    drawn = card(method)
    if drawn.asks_the_buyer:
        return _ask_the_buyer(call, intent, method)
    return pay(call, intent, method, drawn)


def pay(call: Call, intent: Object, method: str, drawn: Card) -> Object:
    """Ask the bank, which declines, or holds the money, or gives it.

    Raises:
        StripeError: 402 if it declines; the change holds the intent as it is then.
    """
    intent = {**intent, "payment_method": method, "next_action": None, "_tries": intent["_tries"] + 1}
    code, decline_code = drawn.code, drawn.decline_code
    if drawn.drawn:
        code, decline_code = call.draw_decline(call.key or f"{intent['id']}:{intent['_tries']}")
    if code is not None and decline_code is not None:
        raise _decline(call.change, intent, method, code, decline_code)
    charge = new_charge(intent, status="succeeded")
    intent = {**intent, "latest_charge": charge["id"], "last_payment_error": None}
    call.change.move("authorize", intent["id"])
    if intent["capture_method"] == "manual":
        call.change.put(charge, "charge.succeeded")
        held = {**intent, "status": "requires_capture", "amount_capturable": intent["amount"]}
        return call.change.put(held, "payment_intent.amount_capturable_updated")
    return take(call, intent, charge, intent["amount"], "charge.succeeded")


def take(call: Call, intent: Object, charge: Object, amount: int, type_: str) -> Object:
    """Take held money, or a part of it; the rest is let go, and counts as refunded on the charge."""
    call.change.move("capture", intent["id"], amountMinor=ledger_minor(amount, intent["currency"]))
    entry = new_balance_transaction(charge, amount, fee=round(amount * call.simulator.behaviour.fee_rate))
    call.change.put(entry)
    charge = {
        **charge,
        "balance_transaction": entry["id"],
        "captured": True,
        "amount_captured": amount,
        "amount_refunded": charge["amount"] - amount,
    }
    call.change.put(charge, type_)
    taken = {**intent, "status": "succeeded", "amount_received": amount, "amount_capturable": 0}
    call.change.put(taken, "payment_intent.succeeded")
    if card(intent["payment_method"]).disputed:
        open_dispute(call.change, charge)
    return taken


def capture(call: Call) -> Object:
    """POST /v1/payment_intents/{id}/capture: https://docs.stripe.com/api/payment_intents/capture."""
    call.form.know("final_capture", "metadata", "statement_descriptor", "statement_descriptor_suffix")
    intent = call.change.get("payment_intent", call.ids["id"], "intent")
    amount = call.form.integer("amount_to_capture", intent["amount"], least=1)
    if intent["status"] != "requires_capture":
        raise unexpected_state(
            f"This PaymentIntent could not be captured because it has a status of {intent['status']}. Only a "
            "PaymentIntent with one of the following statuses may be captured: requires_capture.",
            shown(intent),
        )
    if amount is None or amount > intent["amount_capturable"]:
        raise invalid(
            "amount_to_capture",
            "The requested capture amount is greater than the amount you can capture for this PaymentIntent.",
            "amount_too_large",
        )
    return take(call, intent, call.change.get("charge", intent["latest_charge"]), amount, "charge.captured")


def cancel(call: Call) -> Object:
    """POST /v1/payment_intents/{id}/cancel: https://docs.stripe.com/api/payment_intents/cancel."""
    reason = call.form.text("cancellation_reason")
    if reason is not None and reason not in CANCEL_REASONS:
        raise invalid("cancellation_reason", f"Invalid cancellation_reason: must be one of {', '.join(CANCEL_REASONS)}")
    intent = call.change.get("payment_intent", call.ids["id"], "intent")
    if intent["status"] not in CANCELLABLE:
        raise unexpected_state(
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent "
            f"with one of the following statuses may be canceled: {', '.join(CANCELLABLE)}.",
            shown(intent),
        )
    return let_go(call.change, intent, reason)


def let_go(change: Change, intent: Object, reason: str | None) -> Object:
    """Cancel: no money is ever taken; held money goes back, and the charge then counts as refunded."""
    change.move("cancel", intent["id"])
    if intent["status"] == "requires_capture":
        charge = change.get("charge", intent["latest_charge"])
        change.put({**charge, "refunded": True, "amount_refunded": charge["amount"]}, "charge.refunded")
    gone = {
        **intent,
        "status": "canceled",
        "canceled_at": int(time.time()),
        "cancellation_reason": reason,
        "amount_capturable": 0,
        "next_action": None,
    }
    return change.put(gone, "payment_intent.canceled")


def new_charge(intent: Object, **members: Any) -> Object:
    """Make the charge of one try to pay."""
    return {
        "id": new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "balance_transaction": None,
        "captured": False,
        "created": int(time.time()),
        "currency": intent["currency"],
        "dispute": None,
        "disputed": False,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": intent["metadata"],
        "paid": True,
        "payment_intent": intent["id"],
        "payment_method": intent["payment_method"],
        "refunded": False,
        **members,
    }


def new_balance_transaction(charge: Object, amount: int, *, fee: int) -> Object:
    """Make the entry of a capture in the shop's balance: https://docs.stripe.com/api/balance_transactions/object."""
    return {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "created": int(time.time()),
        "currency": charge["currency"],
        "exchange_rate": None,
        "fee": fee,
        "net": amount - fee,
        "source": charge["id"],
        "status": "available",
        "type": "charge",
    }


def _decline(change: Change, intent: Object, method: str, code: str, decline_code: str) -> StripeError:
    charge = new_charge(intent, status="failed", paid=False, failure_code=code, failure_message=decline_code)
    refused = {**intent, "status": "requires_payment_method", "payment_method": None, "latest_charge": charge["id"]}
    error = declined(code, decline_code, intent=shown(refused), charge=charge["id"], method=method)
    about = {name: value for name, value in error.body["error"].items() if name != "payment_intent"}
    refused["last_payment_error"] = about
    error.body["error"]["payment_intent"] = shown(refused)
    change.move("decline", intent["id"], code=decline_code)
    change.put(charge, "charge.failed")
    change.put(refused, "payment_intent.payment_failed")
    return error


def _ask_the_buyer(call: Call, intent: Object, method: str) -> Object:
    if call.form.flag("off_session") or call.form.flag("error_on_requires_action"):
        tried = {**intent, "_tries": intent["_tries"] + 1, "payment_method": method}
        raise _decline(call.change, tried, method, "authentication_required", "authentication_required")
    asking = {
        **intent,
        "status": "requires_action",
        "payment_method": method,
        "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}},
    }
    return call.change.put(asking, "payment_intent.requires_action")


def _may_redirect(form: Form) -> bool:
    """Say whether methods that leave the page are allowed, as they are unless a call says otherwise."""
    wanted = form.tree("automatic_payment_methods")
    return (wanted.get("enabled", "true"), wanted.get("allow_redirects", "always")) == ("true", "always")
