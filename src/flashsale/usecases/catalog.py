"""The products in the memory of each process: refreshed by notifications, and by polls in case one is lost."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import (
    FlashSaleError,
    NotOnSale,
    ProductNotFound,
    SaleEnded,
    SaleMoved,
    SaleNotStarted,
    SalePaused,
    Unavailable,
)
from flashsale.domain.products import PRODUCT_ID_MAX, LiveStock, Product
from flashsale.runtime.outages import Outage
from flashsale.usecases.batching import Batcher
from flashsale.usecases.live_changes import Connected, ProductChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from flashsale.usecases.live_changes import Change, LiveFeed
    from flashsale.usecases.ports import Products

log = structlog.get_logger(__name__)

CLOSED_MARGIN_S = 1.0
"""The process refuses without Postgres only if the sale has been closed, or will stay closed, for longer than this."""

FRESH_POLLS = 3
"""Polls after which what was read last is too old to refuse a buy: the process may hear of no change."""

SEEK_PAUSE_S = 0.25
"""Minimum time between two reads that unknown product ids cause; ids that come meanwhile share the next one.
Anybody can ask for such ids, and buys read terms in the same lane.
"""

READ_MAX = 500
"""Most products that are read by id in one statement."""

READS_WAIT_MAX = 10_000


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
        self._clock: tuple[datetime, float] | None = None
        """Postgres' time at the last reading, and this process' monotonic clock after it."""
        self._refreshed_at = float("-inf")
        self._sought_s = float("-inf")
        """When unknown products were last looked for."""
        self._reading: Batcher[int | None, None] = Batcher(self._read, batch_max=READ_MAX, queue_max=READS_WAIT_MAX)
        self._seeking: Batcher[int, None] = Batcher(self._seek, batch_max=READ_MAX, queue_max=READS_WAIT_MAX)

    async def get(self, product_id: int) -> Product:
        """Return a product.

        Raises:
            ProductNotFound: if there is none.
            Unavailable: if it is unknown here and the database is away.
        """
        entry = self._entries.get(product_id)
        if entry is None:
            if not 1 <= product_id <= PRODUCT_ID_MAX:
                raise ProductNotFound(product_id)
            # Another process may have created it just now. So each unknown id is looked for, however many there are.
            await self._seeking.submit(product_id)
            entry = self._entries.get(product_id)
            if entry is None:
                raise ProductNotFound(product_id)
        return entry.product

    def find(self, product_id: int) -> Product | None:
        """Return a product, if it is known here."""
        entry = self._entries.get(product_id)
        return None if entry is None else entry.product

    def __contains__(self, product_id: int) -> bool:
        """Whether a product is known here."""
        return product_id in self._entries

    def all(self) -> list[Product]:
        """Return every product, by id.

        Raises:
            Unavailable: if the products were never read, so that an empty list could be wrong.
        """
        if self._refreshed_at == float("-inf"):
            raise Unavailable("The products have not been read yet; send the same request again.")
        return [self._entries[product_id].product for product_id in sorted(self._entries)]

    def listed(self, *, before: int | None, limit: int) -> list[Product]:
        """Return products that are not archived, the newest first; `before`: the last one of the previous page.

        Raises:
            Unavailable: as for `all`.
        """
        newest_first = reversed(self.all())
        shown = (
            product
            for product in newest_first
            if product.archived_at is None and (before is None or product.product_id < before)
        )
        return list(islice(shown, limit))

    @property
    def now(self) -> datetime:
        """The time by Postgres' clock, never ahead of it: behind by at most what the last reading took.

        Raises:
            Unavailable: if no product was ever read.
        """
        if self._clock is None:
            raise Unavailable("The products have not been read yet; send the same request again.")
        then, read_s = self._clock
        return then + timedelta(seconds=time.monotonic() - read_s)

    @property
    def age_s(self) -> float:
        """Seconds since products and stocks were last read; infinite before."""
        return time.monotonic() - self._refreshed_at

    @property
    def is_fresh(self) -> bool:
        """Whether the products were read so lately that a refusal may rest on them; otherwise Postgres must decide."""
        return self.age_s <= FRESH_POLLS * self._poll_s

    def stock(self, product_id: int) -> LiveStock:
        """Return the newest known free count of a known product."""
        return self._stocks[product_id]

    def waiting(self, product_id: int) -> int:
        """Return the maximum number of waiting orders of a product: those of the last poll and units sold since."""
        free = self._stocks[product_id].free
        return self._waiting.get(product_id, 0) + max(0, self._free_then.get(product_id, free) - free)

    def closed(self, product_id: int) -> NotOnSale | None:
        """Return why a sale is certainly closed; None if it is open or Postgres must decide."""
        entry = self._entries[product_id]
        if entry.product.paused:
            return stopped(entry.product)
        if entry.opens_at_s is not None and time.monotonic() < entry.opens_at_s - CLOSED_MARGIN_S:
            return SaleNotStarted(entry.product.starts_at)
        if entry.closes_at_s is not None and time.monotonic() > entry.closes_at_s + CLOSED_MARGIN_S:
            return SaleEnded()
        return None

    def take_stock(self, stock: LiveStock) -> None:
        """Keep a free count unless a newer one is known."""
        known = self._stocks.get(stock.product_id)
        if known is None or stock.version > known.version:
            self._stocks[stock.product_id] = stock

    async def refresh(self, product_id: int | None = None) -> None:
        """Read a product and its stock, or all of them, as they are after the call.

        Calls at the same time share a reading, and one reading runs at a time, so that none replaces what is newer.
        """
        await self._reading.submit(product_id)

    async def _seek(self, wanted: list[int]) -> Sequence[None]:
        await asyncio.sleep(self._sought_s + SEEK_PAUSE_S - time.monotonic())
        self._sought_s = time.monotonic()
        await asyncio.gather(*(self.refresh(product_id) for product_id in sorted(set(wanted))))
        return [None] * len(wanted)

    async def _read(self, wanted: list[int | None]) -> Sequence[None]:
        before = time.monotonic()
        some = None if None in wanted else sorted({one for one in wanted if one is not None})
        rows = await self._products.all(some)
        if rows:
            self._clock = rows[-1][1], time.monotonic()
        # Stocks are read last and stored first, so a caller that finds a product finds its stock.
        for stock in await self._products.stocks(some):
            self.take_stock(stock)
        entries = {
            product.product_id: _Entry(
                product=product,
                opens_at_s=_carried_over(product.starts_at, now, before),
                closes_at_s=_carried_over(product.ends_at, now, before),
            )
            for product, now in rows
        }
        if some is None:
            self._entries = entries
            self._refreshed_at = time.monotonic()
        else:
            self._entries |= entries
        return [None] * len(wanted)

    async def count_waiting(self) -> None:
        """Read how many orders wait."""
        free_then = {product_id: stock.free for product_id, stock in self._stocks.items()}
        self._waiting = await self._products.waiting_orders()
        self._free_then = free_then

    async def poll(self) -> None:
        """Refresh everything for ever, every `poll_s`."""
        outage = Outage(log, back="catalog.fresh")
        while True:
            try:
                await self.refresh()
                await self.count_waiting()
                outage.over()
            except FlashSaleError as error:
                outage.tell("catalog.stale", reason=error.detail)
            except Exception:
                log.exception("catalog.failed")
            await asyncio.sleep(self._poll_s)


def stopped(product: Product) -> NotOnSale:
    """Return why nothing of a product that is paused can be bought."""
    if product.moved_to is not None:
        return SaleMoved(product.moved_to)
    return SalePaused() if product.archived_at is None else SaleEnded()


def _carried_over(instant: datetime | None, now: datetime, now_s: float) -> float | None:
    """Return an instant by another clock, which says `now_s` at the time `now`."""
    return None if instant is None else now_s + (instant - now).total_seconds()


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

    async def changes(self) -> AsyncIterator[Change]:
        """Return the feed's changes, each after the catalog knows it."""
        async for change in self._feed.changes():
            if isinstance(change, LiveStock):
                self._catalog.take_stock(change)
            elif isinstance(change, Connected | ProductChanged):
                try:
                    await self._catalog.refresh(change.product_id if isinstance(change, ProductChanged) else None)
                except FlashSaleError as error:
                    log.warning("catalog.stale", reason=error.detail)
            yield change
