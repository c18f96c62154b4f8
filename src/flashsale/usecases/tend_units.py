"""Keep rows of units ready ahead of the sales, and delete those of allotments that were lowered."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from flashsale.usecases.ports import Products

log = structlog.get_logger(__name__)

ROUNDS_MAX = 100
"""Most rounds in one run, so that a run ends."""

POOLS_MAX = 1000
"""Most products in one round."""


class TendUnits:
    """Makes and deletes unit rows in chunks, one transaction each, in turns over the products that need it.

    After each chunk it pauses as long as the chunk took, so that a large allotment leaves Postgres free for the sales.
    """

    def __init__(self, products: Products, *, chunk: int, ahead: int) -> None:
        """Keep `ahead` unclaimed rows per product."""
        self._products = products
        self._chunk = chunk
        self._ahead = ahead

    async def __call__(self) -> None:
        """Continue until no product needs rows made or deleted; a product that fails waits for the next run."""
        failed: set[int] = set()
        for _ in range(ROUNDS_MAX):
            open_pools = await self._products.open_pools(ahead=self._ahead, limit=POOLS_MAX)
            wanting = [product_id for product_id in open_pools if product_id not in failed]
            if not wanting:
                return
            for product_id in wanting:
                began_s = time.monotonic()
                try:
                    made = await self._products.tend_units(product_id, most=self._chunk)
                except FlashSaleError as error:
                    # The other products must not wait for this one.
                    log.warning("units.not_tended", product_id=product_id, reason=error.detail)
                    failed.add(product_id)
                except PoisonBatch as poison:
                    problem = str(poison).partition("\n")[0]
                    log.error("units.refused", product_id=product_id, problem=problem)  # noqa: TRY400 - one line says it
                    failed.add(product_id)
                else:
                    log.debug("units.tended", product_id=product_id, made=made)
                await asyncio.sleep(time.monotonic() - began_s)
