"""A row of Stripe's lists that cannot be read hides no other row, and an order is never said to have no payment because
of such a row."""

import copy
import time
import uuid

import pytest
import stripe

from flashsale.adapters.payments.stripe_answers import (
    PAUSE_S_MAX,
    WORD_CHARS_MAX,
    Failure,
    read_failure,
    read_intent,
    read_refund,
    read_rows,
)
from flashsale.adapters.payments.stripe_pages import _read_session
from flashsale.domain.payments import NoAnswerKind, RefundState

ORDERS = [uuid.uuid4() for _ in range(3)]
OTHERS = {"order_id": "4711"}
"""What another program that uses the account may write down."""


def intent(number, metadata):
    return {
        "id": f"pi_{number}", "status": "requires_capture", "amount": 99_999, "currency": "usd",
        "created": int(time.time()), "metadata": metadata, "latest_charge": None, "last_payment_error": None,
    }  # fmt: skip


def session(number, metadata):
    return {
        "id": f"cs_{number}", "status": "open", "amount_total": 99_999, "currency": "usd", "created": int(time.time()),
        "metadata": metadata, "payment_intent": None, "url": "https://checkout.example/", "mode": "payment",
    }  # fmt: skip


READERS = {"intents": (intent, read_intent, "amount"), "sessions": (session, _read_session, "amount_total")}
WRONGS = [
    ("status", "a state of next year"),
    ("status", None),
    ("created", "yesterday"),
    ("currency", None),
    # Not a whole number of crowns.
    ("currency", "isk"),
    ("AMOUNT", None),
]


HOSTILE = ["a\x00b", "a\ud800", "a\nb", "x" * 10_000, 7, ["a"], {"a": "\x00"}]
"""What Postgres or a log cannot keep, or is no word."""


def kept(word):
    return word is None or (isinstance(word, str) and word.isprintable() and len(word) <= WORD_CHARS_MAX)


@pytest.mark.parametrize("said", HOSTILE, ids=range(len(HOSTILE)))
def test_no_word_of_the_provider_keeps_an_answer_from_being_written(said):
    """The bank's no is a no, and a refund failed, whatever words come with it."""
    for member in ("code", "type", "decline_code", "payment_intent"):
        error = {"type": "card_error", "code": "card_declined", "payment_intent": {"id": "pi_1"}, member: said}
        if member == "payment_intent":
            error[member] = {"id": said}
        failed = read_failure(stripe.CardError("no", None, "x", http_status=402, json_body={"error": error}))
        assert all(map(kept, (failed.reason, failed.decline_code, failed.intent)))
        assert (failed.decline_code is None) == (member == "type")
    declined = {**intent(1, {}), "status": "requires_payment_method", "last_payment_error": {"decline_code": said}}
    assert kept(read_intent(declined).decline_code)
    refund = {
        "id": "re_1", "payment_intent": "pi_1", "status": "failed", "amount": 1, "currency": "usd",
        "failure_reason": said, "metadata": {"refund_key": said},
    }  # fmt: skip
    read = read_refund(refund)
    assert (read.state, kept(read.reason), kept(read.key)) == (RefundState.FAILED, True, True)
    for name in ("id", "payment_intent"):
        with pytest.raises(ValueError, match="no id"):
            read_refund({**refund, name: said})
    for reads, row in ((read_intent, intent(1, {})), (_read_session, session(1, {}))):
        with pytest.raises(ValueError, match="no id"):
            reads({**row, "id": said})


@pytest.mark.parametrize("wrong", WRONGS, ids=str)
@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("ours", [True, False])
def test_a_row_that_cannot_be_read_hides_no_other(kind, wrong, place, ours):
    make, read, amount = READERS[kind]
    name, value = wrong
    rows = [make(number, {"order_id": str(order_id), "number": "1"}) for number, order_id in enumerate(ORDERS)]
    sound = [read(row) for row in copy.deepcopy(rows)]
    rows[place][name.replace("AMOUNT", amount)] = value
    if not ours:
        rows[place]["metadata"] = OTHERS
    found, last = read_rows({"data": rows, "has_more": True}, read)
    assert last == rows[-1]["id"], "the next page begins after the last row, whether that can be read or not"
    readable = [one for one in found if not isinstance(one, Failure)]
    assert readable == [one for number, one in enumerate(sound) if number != place]
    unread = [one for one in found if isinstance(one, Failure)]
    assert [(one.order_id, one.kind) for one in unread] == ([(ORDERS[place], NoAnswerKind.UNKNOWN)] if ours else [])


def test_a_page_without_rows_is_the_last():
    assert read_rows({"data": [], "has_more": True}, read_intent) == ([], None)
    assert read_rows({"data": [intent(1, {})], "has_more": False}, read_intent)[1] is None


@pytest.mark.parametrize(
    ("charge", "taken", "back"),
    [
        ({"amount": 1000, "amount_captured": 1000, "amount_refunded": 0}, 1000, 0),
        ({"amount": 1000, "amount_captured": 1000, "amount_refunded": 400}, 1000, 400),
        # A part was captured; what was let go counts as refunded, or does not.
        ({"amount": 1000, "amount_captured": 300, "amount_refunded": 700}, 300, 0),
        ({"amount": 1000, "amount_captured": 300, "amount_refunded": 800}, 300, 100),
        ({"amount": 1000, "amount_captured": 300, "amount_refunded": 0}, 300, 0),
    ],
)
def test_an_intent_has_the_amount_that_was_taken(charge, taken, back):
    found = {**intent(1, {}), "status": "succeeded", "amount": 1000, "amount_received": taken, "latest_charge": charge}
    read = read_intent(found)
    assert (read.amount.minor, read.refunded_minor) == (taken, back)


@pytest.mark.parametrize(
    ("asked", "pause_s"), [("2", 2.0), ("9" * 30, PAUSE_S_MAX), ("9" * 400, PAUSE_S_MAX), ("-1", 1.0)]
)
def test_no_answer_asks_for_an_endless_pause(asked, pause_s):
    error = stripe.RateLimitError("slow down", http_status=429, headers={"Retry-After": asked}, json_body={})
    assert read_failure(error).retry_after_s == pause_s
