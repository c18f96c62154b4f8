"""Load the gate from Postgres: a new epoch, the free count under it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError

if TYPE_CHECKING:
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.ports import Gate, Products

log = structlog.get_logger(__name__)

PAUSE_S = 0.2
"""Shortest time between two loadings that requests bring about, per process and product."""


class LoadGate:
    """Loads the gate; in one process at most one loading of a product runs at a time, and callers share it."""

    def __init__(self, products: Products, gate: Gate, catalog: Catalog) -> None:
        """Wire it."""
        self._products = products
        self._gate = gate
        self._catalog = catalog
        self._running: dict[int, asyncio.Task[bool]] = {}
        self.loadings = 0
        """Loadings done by this process."""

    async def __call__(self, product_id: int, *, force: bool = False) -> bool:
        """Load a product's gate unless it is loaded already (or even then: `force`); says whether it is loaded now.

        Raises:
            Unavailable: if Postgres is away. A gate that is away is not loaded: False.
        """
        running = self._running.get(product_id)
        if running is None:
            running = asyncio.create_task(self._load(product_id, force=force))
            self._running[product_id] = running
            running.add_done_callback(lambda _: self._running.pop(product_id, None))
        return await asyncio.shield(running)

    def soon(self, product_id: int) -> None:
        """Start a loading in the background, unless one runs."""
        if product_id not in self._running:
            task = asyncio.create_task(self._load_and_pause(product_id))
            self._running[product_id] = task
            task.add_done_callback(lambda _: self._running.pop(product_id, None))

    async def close(self) -> None:
        """End what runs in the background; a loading that is cut off is done again by whoever notices."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _load_and_pause(self, product_id: int) -> bool:
        loaded = False
        try:
            loaded = await self._load(product_id, force=False)
        except FlashSaleError as error:
            log.warning("gate.not_loaded", product_id=product_id, reason=error.detail)
        await asyncio.sleep(PAUSE_S)
        return loaded

    async def _load(self, product_id: int, *, force: bool) -> bool:
        seen = await self._products.epoch_and_free(product_id)
        if seen is None:
            return False
        epoch, _ = seen
        state = await self._gate.state(product_id, epoch)
        loaded = state.loaded
        if self._gate.away:
            # Nothing can be installed; a new epoch would only unload what others still reach.
            return False
        if force or not loaded:
            begun = await self._products.begin_gate_load(product_id, seen_epoch=epoch)
            if begun is None:
                log.info("gate.loaded_elsewhere", product_id=product_id)
                return False
            loaded = await self._gate.load(product_id, epoch=begun[0], stock=begun[1])
            self.loadings += loaded
            log.info("gate.loaded", product_id=product_id, epoch=begun[0], stock=begun[1], installed=loaded)
        await self._catalog.refresh()
        return loaded
