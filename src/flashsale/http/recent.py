"""The last ten minutes of the sale: buys and stock, every few seconds, for the plots of the console.

A process reads the counters that all API processes of its machine share, and the stock in its own memory: neither
Postgres nor the gate is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.http.metrics import buys_so_far

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.usecases.catalog import Catalog

log = structlog.get_logger(__name__)

EVERY_S = 5.0
KEPT_S = 600.0
PRODUCTS_MAX = 20
"""Products whose stock is kept, the newest."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The sale at one instant."""

    at_s: float
    """By the process' monotonic clock."""
    buys: Mapping[str, int]
    """Buys answered so far, by outcome."""
    stock: Mapping[int, int]
    """Free units by product."""


class Recent:
    """Keeps samples."""

    def __init__(self, catalog: Catalog) -> None:
        """Start without samples."""
        self._catalog = catalog
        self._samples: deque[Sample] = deque(maxlen=round(KEPT_S / EVERY_S) + 1)

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            try:
                await self.take()
            except Exception:
                log.exception("recent.failed")
            await asyncio.sleep(EVERY_S)

    async def take(self) -> None:
        """Take a sample now."""
        buys = await buys_so_far()
        try:
            newest = sorted((one.product_id for one in self._catalog.all()), reverse=True)[:PRODUCTS_MAX]
        except FlashSaleError:
            newest = []
        stock = {product_id: self._catalog.stock(product_id).free for product_id in newest}
        self._samples.append(Sample(time.monotonic(), buys, stock))

    def samples(self) -> Sequence[Sample]:
        """Return the samples, the oldest first."""
        return tuple(self._samples)
