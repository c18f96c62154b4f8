"""What every process knows of the products: refreshed by notifications, and by polling in case one was lost."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError, NotOnSale, ProductNotFound, SaleEnded, SaleNotStarted, SalePaused
from flashsale.domain.products import LiveStock, Product
from flashsale.usecases.ports import Connected, ProductChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flashsale.usecases.ports import LiveFeed, OrderChanged, Products

log = structlog.get_logger(__name__)

CLOSED_MARGIN_S = 1.0
"""A sale counts as closed without asking Postgres only if it is closed by more than this."""

UNKNOWN_WAIT_S = 1.0
"""How often, at most, an unknown product id makes the catalog look again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    product: Product
    opens_at_s: float | None
    """By this process' monotonic clock, carried over from the database's."""
    closes_at_s: float | None


class Catalog:
    """Products, their live stock and their backlog, in memory."""

    def __init__(self, products: Products, *, poll_s: float) -> None:
        """Start empty; `refresh` fills it."""
        self._products = products
        self._poll_s = poll_s
        self._entries: dict[int, _Entry] = {}
        self._stocks: dict[int, LiveStock] = {}
        self._waiting: dict[int, int] = {}
        self._free_then: dict[int, int] = {}
        """Free units just before the waiting orders were counted."""
        self._refreshed_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None

    async def get(self, product_id: int) -> Product:
        """Give a product.

        Raises:
            ProductNotFound: if there is none.
            Unavailable: if it is unknown here and the database is away.
        """
        entry = self._entries.get(product_id)
        if entry is None:
            if time.monotonic() - self._refreshed_at > UNKNOWN_WAIT_S or not self._entries:
                await self.refresh()
            entry = self._entries.get(product_id)
            if entry is None:
                raise ProductNotFound(product_id)
        return entry.product

    def all(self) -> list[Product]:
        """Give every known product, by id."""
        return [entry.product for entry in self._entries.values()]

    @property
    def age_s(self) -> float:
        """Seconds since products and stocks were last read; infinite before."""
        return time.monotonic() - self._refreshed_at

    def stock(self, product_id: int) -> LiveStock:
        """Give the newest known free count of a known product."""
        return self._stocks[product_id]

    def waiting(self, product_id: int) -> int:
        """Give how many orders of a product wait for a worker at most: those of the last poll and units sold since."""
        free = self._stocks[product_id].free
        return self._waiting.get(product_id, 0) + max(0, self._free_then.get(product_id, free) - free)

    def closed(self, product_id: int) -> NotOnSale | None:
        """Give why a sale is certainly closed; None if it is open or Postgres must decide."""
        entry = self._entries[product_id]
        if entry.product.paused:
            return SalePaused()
        now = time.monotonic()
        if entry.opens_at_s is not None and now < entry.opens_at_s - CLOSED_MARGIN_S:
            return SaleNotStarted()
        if entry.closes_at_s is not None and now > entry.closes_at_s + CLOSED_MARGIN_S:
            return SaleEnded()
        return None

    def take_stock(self, stock: LiveStock) -> None:
        """Keep a free count unless a newer one is known."""
        known = self._stocks.get(stock.product_id)
        if known is None or stock.version > known.version:
            self._stocks[stock.product_id] = stock

    async def refresh(self) -> None:
        """Read products and stocks anew; callers at the same time share one reading, which begins after they came."""
        if (early := self._refreshing) is not None and not early.done():
            # It may have read before what this caller knows of was committed.
            await asyncio.wait({early})
        if self._refreshing is early or self._refreshing is None:
            self._refreshing = asyncio.create_task(self._read())
        await asyncio.shield(self._refreshing)

    async def _read(self) -> None:
        before = time.monotonic()
        rows = await self._products.all()
        # Stocks last, so that each product has one, and first to be kept: whoever finds a product finds its stock.
        for stock in await self._products.stocks():
            self.take_stock(stock)
        self._entries = {
            product.product_id: _Entry(
                product=product,
                opens_at_s=None if starts_in_s is None else before + starts_in_s,
                closes_at_s=None if ends_in_s is None else before + ends_in_s,
            )
            for product, starts_in_s, ends_in_s in rows
        }
        self._refreshed_at = time.monotonic()

    async def count_waiting(self) -> None:
        """Read how many orders wait."""
        free_then = {product_id: stock.free for product_id, stock in self._stocks.items()}
        self._waiting = await self._products.waiting_orders()
        self._free_then = free_then

    async def poll(self) -> None:
        """Refresh everything for ever, every `poll_s`."""
        while True:
            try:
                await self.refresh()
                await self.count_waiting()
            except FlashSaleError as error:
                log.warning("catalog.stale", reason=error.detail)
            except Exception:
                log.exception("catalog.failed")
            await asyncio.sleep(self._poll_s)


class CatalogFeed:
    """A live feed that keeps a catalog up to date on its way to the consumer."""

    def __init__(self, feed: LiveFeed, catalog: Catalog) -> None:
        """Wrap a feed."""
        self._feed = feed
        self._catalog = catalog

    @property
    def connected(self) -> bool:
        """Whether the listening connection stands."""
        return self._feed.connected

    @property
    def age_s(self) -> float:
        """Seconds since the catalog's values were last read."""
        return self._catalog.age_s

    async def changes(self) -> AsyncIterator[Connected | OrderChanged | ProductChanged | LiveStock]:
        """Give the feed's changes, each after the catalog knows it."""
        async for change in self._feed.changes():
            if isinstance(change, LiveStock):
                self._catalog.take_stock(change)
            elif isinstance(change, Connected | ProductChanged):
                try:
                    await self._catalog.refresh()
                except FlashSaleError as error:
                    log.warning("catalog.stale", reason=error.detail)
            yield change
