"""The HTML pages: what buyers and staff see in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flashsale.pages import console
from flashsale.pages.assets import Assets
from flashsale.pages.storefront import routes as storefront

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.http.pages import PageParts
    from flashsale.http.routing import Direct

VENDOR = Path(__file__).parent / "vendor"
"""Scripts of others, as their authors publish them, with their licences; SHA256SUMS has their digests."""


def routes(parts: PageParts) -> Sequence[Direct]:
    """Make the routes of all pages."""
    assets = Assets([storefront.ASSETS, console.ASSETS, VENDOR])
    return [*assets.routes(), *storefront.routes(parts, assets), *console.routes(parts, assets)]
