"""Checkout sessions and their hosted page: https://docs.stripe.com/api/checkout/sessions.

A session makes its intent when the buyer pays. It lives from 30 minutes to 24 hours; an open one that is older cannot
be paid any more, and is shown as expired.
"""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING, Any

from flashsale.simulator.stripe.cards import CARDS, card
from flashsale.simulator.stripe.errors import StripeError, invalid
from flashsale.simulator.stripe.form import checked_metadata
from flashsale.simulator.stripe.intents import CAPTURE_METHODS, new_intent, pay
from flashsale.simulator.stripe.money import checked_amount, checked_currency
from flashsale.simulator.stripe.store import Change, Object, new_id

if TYPE_CHECKING:
    from flashsale.simulator.stripe.calls import Call

LIVES_S_MIN = 30 * 60
LIVES_S_MAX = 24 * 3600
ITEMS_MAX = 100
DIGITS_MAX = 15
CLOCKS_S = 60
"""How far the shop's clock may be from this one's."""
IGNORED = (
    "billing_address_collection",
    "customer_email",
    "locale",
    "payment_method_types",
    "submit_type",
    "ui_mode",
    "phone_number_collection",
)


def create(call: Call) -> Object:
    """POST /v1/checkout/sessions: https://docs.stripe.com/api/checkout/sessions/create, in mode `payment`."""
    form = call.form
    form.know(*IGNORED)
    if form.required("mode") != "payment":
        raise invalid("mode", "The simulator knows the mode payment only.")
    success_url, cancel_url = form.required("success_url"), form.text("cancel_url")
    amount, currency = _total(form.tree("line_items"))
    now = int(time.time())
    expires_at = form.integer("expires_at", now + LIVES_S_MAX) or 0
    if not now + LIVES_S_MIN - CLOCKS_S <= expires_at <= now + LIVES_S_MAX + CLOCKS_S:
        raise invalid(
            "expires_at", "The `expires_at` timestamp must be at least 30 minutes and less than 24 hours in the future."
        )
    data = form.tree("payment_intent_data")
    capture_method = data.get("capture_method", "automatic_async")
    if capture_method not in CAPTURE_METHODS:
        raise invalid("payment_intent_data[capture_method]", f"Must be one of {', '.join(CAPTURE_METHODS)}")
    id_ = new_id("cs_test")
    return call.change.put(
        {
            "id": id_,
            "object": "checkout.session",
            "amount_subtotal": amount,
            "amount_total": amount,
            "cancel_url": cancel_url,
            "client_reference_id": form.text("client_reference_id"),
            "created": now,
            "currency": currency,
            "expires_at": expires_at,
            "livemode": False,
            "metadata": form.metadata(),
            "mode": "payment",
            "payment_intent": None,
            "payment_method_types": ["card"],
            "payment_status": "unpaid",
            "status": "open",
            "success_url": success_url,
            "url": f"{call.base_url}/c/pay/{id_}",
            "_capture_method": capture_method,
            "_metadata": checked_metadata(data.get("metadata", {})),
        }
    )


def retrieve(call: Call) -> Object:
    """GET /v1/checkout/sessions/{id}."""
    return as_it_is_now(call.change.get("checkout.session", call.ids["id"], "session"))


def expire(call: Call) -> Object:
    """POST /v1/checkout/sessions/{id}/expire: https://docs.stripe.com/api/checkout/sessions/expire."""
    session = as_it_is_now(call.change.get("checkout.session", call.ids["id"], "session"))
    if session["status"] != "open":
        raise StripeError(
            400,
            f'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"`{session['status']}`.",
            executed=True,
        )
    return call.change.put({**session, "status": "expired", "url": None}, "checkout.session.expired")


def pay_in_page(call: Call) -> Object:
    """POST /v1/test_helpers/checkout/sessions/{id}/pay: the buyer in the page, at a test's command.

    Raises:
        StripeError: 402 if the bank declines; the session stays open.
    """
    session = as_it_is_now(call.change.get("checkout.session", call.ids["id"], "session"))
    method = call.form.text("payment_method") or "pm_card_visa"
    drawn = card(method)
    if session["status"] != "open":
        raise StripeError(400, f"This Checkout Session is {session['status']}.", executed=True)
    intent = (
        call.change.get("payment_intent", session["payment_intent"])
        if session["payment_intent"]
        else new_intent(
            call.change,
            amount=session["amount_total"],
            currency=session["currency"],
            capture_method=session["_capture_method"],
            metadata=session["_metadata"],
        )
    )
    call.change.put({**session, "payment_intent": intent["id"]})
    paid = pay(call, intent, method, drawn)
    status = "paid" if paid["status"] == "succeeded" else "unpaid"
    complete = {**session, "payment_intent": paid["id"], "status": "complete", "payment_status": status, "url": None}
    return call.change.put(complete, "checkout.session.completed")


def as_it_is_now(session: Object) -> Object:
    """Return a session, expired if its time is over."""
    if session["status"] == "open" and time.time() >= session["expires_at"]:
        return {**session, "status": "expired", "url": None}
    return session


def page(change: Change, id_: str) -> str:
    """Return the hosted page: the sum, a test card, and a button.

    Raises:
        StripeError: 404 if there is no such session.
    """
    session = as_it_is_now(change.get("checkout.session", id_, "session"))
    back = html.escape(session["cancel_url"] or "")
    link = f'<p><a href="{back}">Back to the shop</a></p>' if back else ""
    if session["status"] != "open":
        return _PAGE.format(body=f"<p>This payment is {html.escape(session['status'])}.</p>{link}")
    cards = "".join(f"<option>{html.escape(name)}</option>" for name in CARDS)
    total = f"{session['amount_total']} {session['currency']} (smallest units)"
    form = (
        f'<form method="post"><p>{html.escape(total)}</p><label>Test card <select name="payment_method">{cards}'
        "</select></label> <button>Pay</button></form>"
    )
    return _PAGE.format(body=form + link)


_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Test payment</title>'
    '<meta name="viewport" content="width=device-width"><h1>Test payment</h1>{body}</html>'
)


def _total(items: dict[str, Any]) -> tuple[int, str]:
    """Add the line items up."""
    if not items or len(items) > ITEMS_MAX:
        raise invalid("line_items", f"Send 1 to {ITEMS_MAX} line_items with price_data.", "parameter_missing")
    total, currency = 0, ""
    for item in items.values():
        price = item.get("price_data") if isinstance(item, dict) else None
        if not isinstance(price, dict) or not isinstance(price.get("product_data"), dict):
            raise invalid("line_items", "A line item needs price_data with product_data.", "parameter_missing")
        numbers = (price.get("unit_amount"), item.get("quantity", "1"))
        if not all(isinstance(number, str) and number.isdecimal() and len(number) <= DIGITS_MAX for number in numbers):
            raise invalid("line_items", "Invalid integer in line_items", "parameter_invalid_integer")
        if currency not in ("", str(price.get("currency"))):
            raise invalid("line_items", "All line items must have the same currency.")
        currency = str(price.get("currency"))
        total += int(str(numbers[0])) * int(str(numbers[1]))
    currency = checked_currency(currency)
    return checked_amount(total, currency, "line_items"), currency
