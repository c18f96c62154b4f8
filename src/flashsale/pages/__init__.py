"""The HTML pages: what buyers and staff see in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.pages.assets import Assets
from flashsale.pages.storefront import routes as storefront

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.http.pages import PageParts
    from flashsale.http.routing import Direct


def routes(parts: PageParts) -> Sequence[Direct]:
    """Make the routes of all pages."""
    assets = Assets([storefront.ASSETS])
    return [*assets.routes(), *storefront.routes(parts, assets)]
