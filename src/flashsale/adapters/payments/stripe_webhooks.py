"""Stripe's webhooks: https://docs.stripe.com/webhooks/signature."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import stripe

from flashsale.domain.payment_errors import WebhookRefused
from flashsale.domain.payments import ProviderEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashsale.settings.stripe import StripeSettings

_NAME = re.compile(r"[\x21-\x7e]{1,255}")

SAY_NOTHING = frozenset({"payment_intent.created", "charge.updated"})
"""Types that tell nothing of money."""


def read_event(settings: StripeSettings, *, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
    """Check the signature on the bytes that arrived, under either secret, and its age.

    Raises:
        WebhookRefused: if it is not signed with our secret, or is too old, or cannot be read.
    """
    secrets = [settings.webhook_secret.get_secret_value(), settings.webhook_second_secret.get_secret_value()]
    signature = headers.get("stripe-signature", "")
    if not any(secret and _is_signed(settings, body, signature, secret) for secret in secrets):
        raise WebhookRefused("The event is not signed with the secret of this endpoint, or is too old.")
    try:
        event: Any = json.loads(body)
        read = ProviderEvent(
            event_id=event["id"],
            type=event["type"],
            reference=_reference(event["type"], event["data"]["object"]),
            created_at=datetime.fromtimestamp(event["created"], UTC),
        )
        named = all(_NAME.fullmatch(text) for text in (read.event_id, read.type, read.reference or "none"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, OSError) as error:
        raise WebhookRefused("The event cannot be read.") from error
    if not named:
        raise WebhookRefused("The event's id, type or object cannot be read.")
    return read


def _is_signed(settings: StripeSettings, body: bytes, signature: str, secret: str) -> bool:
    if not signature.isascii():
        # The library compares texts, which raises for other characters.
        return False
    try:
        return bool(stripe.WebhookSignature.verify_header(body, signature, secret, settings.webhook_age_s))
    except (stripe.SignatureVerificationError, ValueError):
        return False


def _reference(type_: str, about: Mapping[str, Any]) -> str | None:
    """Return the intent, or the session of a page, that an event is about; None for what tells nothing of money."""
    if type_ in SAY_NOTHING:
        return None
    itself = about.get("object") in {"payment_intent", "checkout.session"}
    intent = about["id"] if itself else about.get("payment_intent")
    return intent if isinstance(intent, str) else None
