"""Settings of the Stripe adapter."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from flashsale.settings.server_urls import check_gateway_url
from flashsale.settings.values import Group, Secret

if TYPE_CHECKING:
    from collections.abc import Callable

STRIPE_URL = "https://api.stripe.com"


def _base_url(url: str) -> str:
    check_gateway_url(url)
    return url.rstrip("/")


def _shop_url(url: str) -> str:
    """Accept an address of the shop: https, or http on this machine, without credentials."""
    if not url:
        return url
    parts = urlsplit(url)
    local = parts.hostname in {"127.0.0.1", "localhost", "::1"}
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ValueError("must be an https address (http only on this machine)")
    if not parts.hostname or "@" in parts.netloc or not re.fullmatch(r"[!-~]{1,500}", url):
        raise ValueError("must be an address without spaces and credentials")
    if re.search(r"[{}]", url.replace("{order_id}", "")) or "{order_id}" in parts.netloc:
        raise ValueError("may have {order_id} in its path or query, and no other braces")
    return url


ShopUrl = Annotated[str, AfterValidator(_shop_url)]


def _named(pattern: str, example: str) -> Callable[[SecretStr], SecretStr]:
    """Make a check of a key's form, so that a key in the wrong variable is refused at start."""

    def checked(secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value()
        if text and re.fullmatch(pattern, text) is None:
            raise ValueError(f"does not look like {example}")
        return secret

    return checked


WebhookSecret = Annotated[
    Secret, AfterValidator(_named(r"whsec_\S{16,}", "the secret of a webhook endpoint, whsec_..."))
]


class StripeSettings(Group):
    """Stripe, if `FLASHSALE_PAYMENTS__PROVIDER` is `stripe`."""

    secret_key: Annotated[
        Secret, AfterValidator(_named(r"(sk|rk)_(test|live)_\S+", "a secret key, sk_test_... or rk_live_..."))
    ] = Field(SecretStr(""), description="Secret or restricted key of the account.")
    publishable_key: str = Field("", description="Publishable key, which the payment page shows to everybody.")
    webhook_secret: WebhookSecret = Field(SecretStr(""), description="Secret of the webhook endpoint.")
    webhook_second_secret: WebhookSecret = Field(
        SecretStr(""), description="Second valid secret of the endpoint, while it is rotated."
    )
    webhook_age_s: int = Field(300, ge=1, description="Maximum age of a webhook's signature; an older one is refused.")
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        STRIPE_URL, description="Where the calls go; the simulator speaks the same protocol."
    )
    api_version: str = Field(
        "2026-10-28.endive",
        pattern=r"^\d{4}-\d{2}-\d{2}(\.[a-z]+)?$",
        description="Version of Stripe's API that each call names.",
    )
    payment_method: str = Field(
        "",
        description="Test payment method with which orders of `automatic` products are paid; refused with a live key.",
    )
    return_url: ShopUrl = Field(
        "",
        description="Where the provider's page leads a buyer who has paid; `{order_id}` stands for the order. With it "
        "and `cancel_url`, orders of products with a payment window of 30 minutes or more are paid on the provider's "
        "page.",
    )
    cancel_url: ShopUrl = Field(
        "", description="Where the provider's page leads a buyer who goes back without paying; `{order_id}` as above."
    )
    key_lifetime_s: float = Field(
        82_800.0,
        gt=0,
        description="Time after an order's creation from which Stripe may forget its idempotency keys (24 hours, less "
        "an hour for clocks); from then on only what can be looked up is settled.",
    )

    @property
    def is_live(self) -> bool:
        """Whether the key moves real money."""
        return "_live_" in self.secret_key.get_secret_value()[:8]

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.is_live and self.payment_method:
            raise ValueError("payment_method is for test keys; with a live key the buyers pay (by_buyer products)")
        if self.is_live and urlsplit(self.base_url).scheme != "https":
            raise ValueError("base_url must be https with a live key")
        if bool(self.return_url) != bool(self.cancel_url):
            raise ValueError("return_url and cancel_url are set together, or neither is")
        if self.publishable_key and re.fullmatch(r"pk_(test|live)_\S+", self.publishable_key) is None:
            raise ValueError("publishable_key does not look like a publishable key, pk_test_... or pk_live_...")
        both = bool(self.publishable_key and self.secret_key.get_secret_value())
        if both and self.is_live != self.publishable_key.startswith("pk_live_"):
            raise ValueError("publishable_key and secret_key are not both for tests or both live")
        return self
