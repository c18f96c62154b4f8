"""Products: the list, a product's page, and the form that buys without a script.

The list and the product's page are the same for every visitor, so that caches can serve them. The script asks the API
for everything that changes.
"""

from __future__ import annotations

import re
import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from flashsale.domain.errors import (
    FlashSaleError,
    KeyReused,
    ProductNotFound,
    Refused,
    SaleEnded,
    SaleMoved,
    SaleNotStarted,
    SalePaused,
    Unauthenticated,
)
from flashsale.domain.money import parse_money
from flashsale.domain.products import PaymentMode
from flashsale.domain.requests import BuyRequest, check_key
from flashsale.http.routes.products import PAGE_MAX
from flashsale.pages.session import form_of, query_of
from flashsale.pages.storefront.texts import texts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashsale.domain.products import Product
    from flashsale.http.messages import Answer, Request
    from flashsale.http.routing import Direct
    from flashsale.pages.storefront.shop import Page, Shop
    from flashsale.pages.storefront.texts import Texts
    from flashsale.usecases.catalog import Catalog

PRODUCT, BUY = "/p/{product_id:int}", "/p/{product_id:int}/buy"
KEPT_S = 1.0
"""How long a rendered list of products is used again."""
KEPT_MAX = 64
"""Most rendered lists that are kept."""
STARTED = timedelta(minutes=5)
"""How long after the start of a sale its page keeps the place of the countdown."""
MINUTE_S = 60
_NUMBER = re.compile("[1-9][0-9]{0,9}")
KEY_BYTES = 16
"""Randomness of an idempotency key."""
CLOSED = {SalePaused: "paused", SaleNotStarted: "before", SaleEnded: "ended", SaleMoved: "ended"}


class ProductPages:
    """The pages of products."""

    def __init__(self, shop: Shop) -> None:
        """Keep the shop."""
        self._shop = shop
        self._catalog = shop.services.catalog
        self._lists: dict[tuple[Texts, int | None], tuple[float, str]] = {}
        """Each page of the list, by its first product, as it was rendered last, and when: the oldest first."""

    def routes(self) -> list[Direct]:
        """Make the routes."""
        return self._shop.routes(
            [
                ("GET", "/", self.products),
                ("GET", PRODUCT, self._followed(self.product)),
                ("GET", BUY, self._followed(self.form)),
                ("POST", BUY, self._followed(self.buy)),
            ]
        )

    async def products(self, request: Request) -> Answer:
        """List the products, the newest first, from before a product."""
        found = self._catalog.listed(before=_before(request.query), limit=PAGE_MAX + 1)
        # Numbers that name no product lead to a page that another number has.
        page = texts_of(request), found[0].product_id if found else None
        kept = self._lists.get(page)
        if kept is None or time.monotonic() - kept[0] > KEPT_S:
            shown = [(one, sale_of(self._catalog, one)) for one in found[:PAGE_MAX]]
            values = {"products": shown, "more": len(found) > PAGE_MAX}
            kept = (time.monotonic(), self._shop.render(request, "products.html", values))
            self._lists.pop(page, None)
            self._lists[page] = kept
            if len(self._lists) > KEPT_MAX:
                del self._lists[next(iter(self._lists))]
        return self._shop.public(request, kept[1])

    async def product(self, request: Request) -> Answer:
        """Show a product."""
        try:
            shown = await self._product(request)
        except ProductNotFound as error:
            return self._shop.missing(request, error)
        starts, now = shown.starts_at, self._catalog.now
        # A button that the start of the sale moves would slip away under a finger.
        waits = starts is not None and now < starts + STARTED
        values = {"product": shown, "terms": _terms(shown), "waits": waits}
        body = self._shop.render(request, "product.html", values)
        return self._shop.public(request, body)

    async def form(self, request: Request) -> Answer:
        """Show the form that buys, with the key and the price in its path.

        A form gets its key there, so that a browser that goes back to the form, or loads it again, sends the same key.
        """
        shown = await self._product(request)
        sent = query_of(request)
        kept = (check_key(sent["key"]), sent.get("price", str(shown.price))) if "key" in sent else None
        if self._shop.visitor(request) is None:
            return self._to_sign_in(request, kept)
        if kept is None:
            return self._shop.redirect(request, f"{request.path}?{_query(_new_key(), str(shown.price))}")
        return self._shop.page(request, "buy.html", told="", **self._values(shown, kept))

    async def buy(self, request: Request) -> Answer:
        """Buy one unit under the key of the form; what was accepted before, too, of a product that has gone since."""
        shown = await self._found(request)
        principal, sent = self._shop.visitor(request), form_of(request)
        key, price = check_key(sent.get("key", "")), sent.get("price", str(shown.price))
        if principal is None:
            return self._to_sign_in(request, (key, price))
        parts = self._shop.parts
        try:
            request.extra = parts.limits.buys.take((principal.user_id.int, shown.product_id))
            accepted = await parts.services.buy(BuyRequest(principal.user_id, shown.product_id, 1, key, price))
        except FlashSaleError as error:
            parts.meter.count_buy(error.code)
            if isinstance(self._shop.of_cell(request, error), Unauthenticated):
                return self._to_sign_in(request, (key, price))
            # These are final for the key. After any other error the same request must be sent again.
            kept = None if isinstance(error, Refused | KeyReused) else (key, price)
            return self._shop.refusal(request, error, "buy.html", **self._values(await self._product(request), kept))
        parts.meter.count_buy("accepted")
        return self._shop.redirect(request, f"/order/{accepted.order_id}")

    def _to_sign_in(self, request: Request, kept: tuple[str, str] | None) -> Answer:
        # The request may have been accepted before, so the sign-in leads back to the same key.
        query = "" if kept is None else f"?{_query(*kept)}"
        return self._shop.to_sign_in(request, request.path + query)

    def _followed(self, page: Page) -> Page:
        """Lead from the pages of a product that moved to another cell to the page of the one that it became."""

        async def serve(request: Request) -> Answer:
            try:
                return await page(request)
            except SaleMoved as error:
                return self._shop.moved(request, f"/p/{error.moved_to}")

        return serve

    async def _product(self, request: Request) -> Product:
        """Return the product of a path, if buyers may see it.

        Raises:
            SaleMoved: if it is another product now.
            ProductNotFound: if there is none.
            Unavailable: if it is unknown here, and Postgres is away.
        """
        product = await self._found(request)
        if product.moved_to is not None:
            raise SaleMoved(product.moved_to)
        if product.archived_at is not None:
            raise ProductNotFound(product.product_id)
        return product

    async def _found(self, request: Request) -> Product:
        return await self._catalog.get(int(request.path.split("/")[2]))

    def _values(self, product: Product, kept: tuple[str, str] | None = None) -> dict[str, Any]:
        """Return what the form shows; `kept`: key and price of a request which was not decided."""
        key, price = kept or (_new_key(), str(product.price))
        own = price == str(product.price)
        return {
            "product": product,
            "asked": product.price if own else parse_money(price, product.price.currency),
            "terms": _terms(product),
            "state": sale_of(self._catalog, product),
            "stock": self._catalog.stock(product.product_id).free,
            "key": key,
            "price": price,
            "kept": _query(key, price),
        }


def _new_key() -> str:
    return secrets.token_urlsafe(KEY_BYTES)


def _query(key: str, price: str) -> str:
    return urlencode({"key": key, "price": price})


def _before(query: bytes) -> int | None:
    """Return the product before which a page begins; None: it is the first page, or the query names no number."""
    named = parse_qs(query.decode("latin-1")).get("before", [""])[-1]
    return int(named) if _NUMBER.fullmatch(named) else None


def sale_of(catalog: Catalog, product: Product) -> str:
    """Return how a sale stands, as far as this process knows: before, open, sold_out, paused or ended."""
    closed = catalog.closed(product.product_id)
    if closed is not None:
        return CLOSED[type(closed)]
    return "open" if catalog.stock(product.product_id).free else "sold_out"


def _terms(product: Product) -> Iterator[tuple[str, dict[str, int | None]]]:
    """Return the texts of a product's terms, as keys and values."""
    if product.limit_per_buyer is not None:
        yield "js.each", {"limit": product.limit_per_buyer}
    if product.payment_mode is PaymentMode.AUTOMATIC:
        yield "js.at_once", {}
    elif product.payment_window_s % MINUTE_S or product.payment_window_s == MINUTE_S:
        # The texts have no singular.
        yield "js.window_s", {"seconds": product.payment_window_s}
    else:
        yield "js.window", {"minutes": product.payment_window_s // MINUTE_S}
    if product.refundable_by_buyer:
        yield "js.refundable", {}
