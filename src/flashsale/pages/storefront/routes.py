"""All routes of the storefront."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flashsale.pages.storefront.account_pages import AccountPages
from flashsale.pages.storefront.order_pages import OrderPages
from flashsale.pages.storefront.product_pages import ProductPages
from flashsale.pages.storefront.shop import Shop

if TYPE_CHECKING:
    from flashsale.http.pages import PageParts
    from flashsale.http.routing import Direct
    from flashsale.pages.assets import Assets

ASSETS = Path(__file__).parent / "assets"


def routes(parts: PageParts, assets: Assets) -> list[Direct]:
    """Make the routes."""
    shop = Shop(parts, assets)
    return [route for pages in (ProductPages, OrderPages, AccountPages) for route in pages(shop).routes()]
