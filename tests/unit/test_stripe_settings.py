"""Stripe's keys: what is missing, pasted into the wrong variable or of the wrong kind is refused, and never shown."""

import hashlib
import hmac
import json
import time

import pytest

from flashsale.adapters.payments.stripe_webhooks import read_event
from flashsale.domain.payment_errors import WebhookRefused
from flashsale.settings import read_settings
from flashsale.settings.stripe import StripeSettings

KEY, SECOND = "whsec_0123456789abcdef0123456789abcdef", "whsec_fedcba9876543210fedcba9876543210"
GOOD = {
    "FLASHSALE_POSTGRES__URL": "postgresql://u:p@127.0.0.1:9/x",
    "FLASHSALE_REDIS__URL": "redis://127.0.0.1:9/0",
    "FLASHSALE_AUTH__JWT_SECRET": "only-for-tests: 0123456789 abcdefgh",
    "FLASHSALE_PAYMENTS__PROVIDER": "stripe",
    "FLASHSALE_STRIPE__SECRET_KEY": "sk_test_0123456789abcdef",
    "FLASHSALE_STRIPE__WEBHOOK_SECRET": KEY,
}
NEEDED = {
    ("api", "FLASHSALE_STRIPE__SECRET_KEY"),
    ("api", "FLASHSALE_STRIPE__WEBHOOK_SECRET"),
    ("payments", "FLASHSALE_STRIPE__SECRET_KEY"),
}
WRONG = {
    "FLASHSALE_STRIPE__SECRET_KEY": ["pk_test_0123456789", KEY, "password", "sk_other_0123456789"],
    "FLASHSALE_STRIPE__WEBHOOK_SECRET": ["sk_test_0123456789", "whsec_short", "password"],
    "FLASHSALE_STRIPE__WEBHOOK_SECOND_SECRET": ["sk_test_0123456789", "whsec_short", "password"],
}
LIVE = {"FLASHSALE_STRIPE__SECRET_KEY": "sk_live_0123456789abcdef"}
TOGETHER = [
    {**LIVE, "FLASHSALE_STRIPE__PAYMENT_METHOD": "pm_card_visa"},
    {**LIVE, "FLASHSALE_STRIPE__BASE_URL": "http://127.0.0.1:9100"},
    {**LIVE, "FLASHSALE_STRIPE__PUBLISHABLE_KEY": "pk_test_0123456789"},
    {"FLASHSALE_STRIPE__PUBLISHABLE_KEY": "pk_live_0123456789"},
    {"FLASHSALE_STRIPE__PUBLISHABLE_KEY": "sk_test_0123456789abcdef"},
]


@pytest.fixture
def environment(monkeypatch):
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refused(process):
    with pytest.raises(SystemExit) as end:
        read_settings(process)
    *lines, _ = str(end.value).splitlines()
    return lines


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "not set"])
@pytest.mark.parametrize("process", ["api", "orders", "payments", "maintenance", "audit"])
@pytest.mark.parametrize("name", ["FLASHSALE_STRIPE__SECRET_KEY", "FLASHSALE_STRIPE__WEBHOOK_SECRET"])
def test_a_process_refuses_to_start_without_the_keys_that_it_needs(environment, process, name, empty):
    environment.setenv(name, "") if empty else environment.delenv(name)
    if (process, name) in NEEDED:
        assert refused(process) == [f"{name}: is missing"]
    else:
        read_settings(process)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_key_in_the_wrong_variable_is_refused_and_not_shown(environment, name, value):
    environment.setenv(name, value)
    [line] = refused("api")
    assert line.startswith(f"{name}: ")
    assert value not in line


@pytest.mark.parametrize("values", TOGETHER, ids=" ".join)
def test_live_keys_and_test_keys_are_kept_apart(environment, values):
    for name, value in values.items():
        environment.setenv(name, value)
    [line] = refused("api")
    assert line.startswith("FLASHSALE_STRIPE")
    assert not any(value in line for value in values.values())


def test_without_stripe_no_key_is_needed(environment):
    environment.setenv("FLASHSALE_PAYMENTS__PROVIDER", "simulator")
    for name in ("FLASHSALE_STRIPE__SECRET_KEY", "FLASHSALE_STRIPE__WEBHOOK_SECRET"):
        environment.delenv(name)
    read_settings("api")


EVENT = {
    "id": "evt_1",
    "object": "event",
    "type": "payment_intent.succeeded",
    "created": 1_700_000_000,
    "data": {"object": {"id": "pi_1", "object": "payment_intent"}},
}


def signed(body, secret, at=None):
    at = int(time.time()) if at is None else at
    mac = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return {"stripe-signature": f"t={at},v1={mac}"}


def webhook(headers, body):
    settings = StripeSettings(webhook_secret=KEY, webhook_second_secret=SECOND)
    return read_event(settings, headers=headers, body=body)


@pytest.mark.parametrize("secret", [KEY, SECOND], ids=["first", "second"])
def test_both_secrets_of_an_endpoint_are_valid_while_it_is_rotated(secret):
    body = json.dumps(EVENT).encode()
    event = webhook(signed(body, secret), body)
    assert (event.event_id, event.reference, event.type) == ("evt_1", "pi_1", "payment_intent.succeeded")


BODY = json.dumps(EVENT).encode()
FORGED = {
    "no signature": ({}, BODY),
    "an empty one": ({"stripe-signature": ""}, BODY),
    "no list": ({"stripe-signature": "x"}, BODY),
    "another secret": (signed(BODY, "whsec_another_secret_0123"), BODY),
    "no secret": (signed(BODY, ""), BODY),
    "another body": (signed(BODY, KEY), BODY + b" "),
    "too old": (signed(BODY, KEY, int(time.time()) - 400), BODY),
    "another scheme": ({"stripe-signature": signed(BODY, KEY)["stripe-signature"].replace("v1", "v0")}, BODY),
    "no JSON": (signed(b"{", KEY), b"{"),
    "no event": (signed(b"[]", KEY), b"[]"),
    "no text": (signed(b"\xff", KEY), b"\xff"),
}
NAMES = {name: json.dumps({**EVENT, "id": name}).encode() for name in ("", "x" * 256, "evt 1", "evt\x00")}


@pytest.mark.parametrize(("headers", "body"), FORGED.values(), ids=FORGED)
def test_a_webhook_that_is_not_certainly_stripes_is_refused(headers, body):
    with pytest.raises(WebhookRefused):
        webhook(headers, body)


@pytest.mark.parametrize("body", NAMES.values(), ids=repr)
def test_a_name_that_no_row_could_hold_is_refused(body):
    with pytest.raises(WebhookRefused):
        webhook(signed(body, KEY), body)


@pytest.mark.parametrize("type_", ["payment_intent.created", "charge.updated", "customer.created"])
def test_an_event_that_tells_nothing_of_money_has_no_reference(type_):
    about = (
        {"id": "x", "object": "customer"} if type_ == "customer.created" else {"id": "pi_1", "object": "payment_intent"}
    )
    body = json.dumps({**EVENT, "type": type_, "data": {"object": about}}).encode()
    assert webhook(signed(body, KEY), body).reference is None
