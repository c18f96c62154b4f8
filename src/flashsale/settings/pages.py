"""Settings of the HTML pages."""

from __future__ import annotations

from pydantic import Field

from flashsale.settings.values import Group


class PageSettings(Group):
    """The storefront."""

    shop_name: str = Field(
        "flashsale", min_length=1, max_length=60, description="Name of the shop, at the top of each page."
    )
    payment_hint: str = Field(
        "",
        max_length=500,
        description="How to send the money, for buyers of a shop with the provider `manual`: a bank account, or where "
        "the counter is.",
    )
    token_ttl_s: int = Field(
        300, ge=10, le=3600, description="Lifetime of the token that a page's script gets to call the API."
    )
    session_max_s: int = Field(
        43_200,
        ge=60,
        le=604_800,
        description="How long after the sign-in a buyer's session ends, however long the buyer stays on a page.",
    )
