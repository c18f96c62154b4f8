"""The console: what staff see on the night of a sale, and what they do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flashsale.pages.console.frame import Frame
from flashsale.pages.console.orders import Orders
from flashsale.pages.console.products import Products
from flashsale.pages.console.records import Records
from flashsale.pages.console.sale import Sale
from flashsale.pages.console.signing import Signing
from flashsale.pages.console.staff import Staff

if TYPE_CHECKING:
    from flashsale.http.pages import PageParts
    from flashsale.http.routing import Direct
    from flashsale.pages.assets import Assets
    from flashsale.pages.console.frame import Action, Page

ASSETS = Path(__file__).parent / "assets"


def routes(parts: PageParts, assets: Assets) -> list[Direct]:
    """Make the routes of the console."""
    frame = Frame(parts, assets)
    return [*Signing(frame).routes(), *frame.routes(*whole(frame))]


def whole(frame: Frame) -> tuple[list[Page], list[Action]]:
    """Return every page and action that asks for a role."""
    sale, products, orders, records, staff = (
        Sale(frame), Products(frame), Orders(frame), Records(frame), Staff(frame),
    )  # fmt: skip
    pages = [*sale.pages(), *products.pages(), *orders.pages(), *records.pages(), *staff.pages()]
    return pages, [*products.actions(), *orders.actions(), *staff.actions()]
