"""Whatever somebody writes into the header of a webhook's signature, the webhook is refused, and nothing breaks."""

import hashlib
import hmac
import json
import time

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from pydantic import SecretStr

from flashsale.adapters.payments.stripe_webhooks import read_event
from flashsale.domain.payment_errors import WebhookRefused
from flashsale.settings.stripe import StripeSettings

SETTINGS = StripeSettings(webhook_secret=SecretStr("whsec_" + "a" * 32))
SENT = st.text(st.characters(max_codepoint=255), max_size=40)
"""Header values are bytes, read as Latin-1."""
SIGNATURES = st.one_of(
    SENT, SENT.map(lambda text: f"t={int(time.time())},v1={text}"), SENT.map(lambda text: f"t={text},v1=0")
)


@limits(max_examples=300, deadline=None)
@given(SIGNATURES, st.binary(max_size=20))
def test_a_forged_signature_is_refused(signature, body):
    with pytest.raises(WebhookRefused):
        read_event(SETTINGS, headers={"stripe-signature": signature}, body=body)


@pytest.mark.parametrize("signature", ["t=1,v1=\xe9", "t=1,v1=\xe9,v1=0", "\xff", "v1=\u0100", ""])
def test_a_signature_of_other_characters_is_refused(signature):
    with pytest.raises(WebhookRefused):
        read_event(SETTINGS, headers={"stripe-signature": signature}, body=b"{}")


@pytest.mark.parametrize("about", ["pi_1", ["pi_1"], None, 1, {}, {"object": "payment_intent"}])
def test_a_signed_event_about_no_object_is_refused_or_about_nothing(about):
    body = json.dumps({"id": "evt_1", "type": "x", "created": 1, "data": {"object": about}}).encode()
    at = int(time.time())
    mac = hmac.new(SETTINGS.webhook_secret.get_secret_value().encode(), f"{at}.".encode() + body, hashlib.sha256)
    headers = {"stripe-signature": f"t={at},v1={mac.hexdigest()}"}
    if about == {}:
        assert read_event(SETTINGS, headers=headers, body=body).reference is None
    else:
        with pytest.raises(WebhookRefused):
            read_event(SETTINGS, headers=headers, body=body)
