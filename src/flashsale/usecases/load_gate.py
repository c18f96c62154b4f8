"""Load the gate from Postgres: start a new epoch and install its free count."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError

if TYPE_CHECKING:
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.ports import Gate, GateBooks

log = structlog.get_logger(__name__)

PAUSE_S = 0.2
"""Minimum time between two loads that requests cause, per process and product."""

AT_ONCE = 4
"""Most loadings of one process at the same time: each holds a connection, and may wait for its product's lock."""


class LoadGate:
    """Loads the gate; in one process at most one loading of a product runs at a time, and callers share it."""

    def __init__(self, books: GateBooks, gate: Gate, catalog: Catalog | None) -> None:
        """Wire it; after a loading the product is read into the catalog, if there is one."""
        self._books = books
        self._gate = gate
        self._catalog = catalog
        self._running: dict[int, asyncio.Task[bool]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self.loadings = 0
        """Loadings done by this process."""

    async def __call__(self, product_id: int, *, seen_epoch: int | None = None) -> bool:
        """Load a product's gate unless it is loaded already; says whether it is loaded now.

        With `seen_epoch` it is loaded whatever it holds, if the epoch is still that one.

        Raises:
            Unavailable: if Postgres is away. A gate that is away is not loaded: False.
        """
        return await asyncio.shield(self._running.get(product_id) or self._begin(product_id, seen_epoch, pause_s=0.0))

    def soon(self, product_id: int) -> None:
        """Start a loading in the background, unless one runs."""
        if product_id not in self._running:
            self._begin(product_id, None, pause_s=PAUSE_S).add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )

    async def close(self) -> None:
        """Cancel the loads in the background; another process that notices the mismatch loads the gate."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _begin(self, product_id: int, seen_epoch: int | None, *, pause_s: float) -> asyncio.Task[bool]:
        task = asyncio.create_task(self._load_in_turn(product_id, seen_epoch, pause_s))
        self._running[product_id] = task
        task.add_done_callback(lambda _: self._running.pop(product_id, None))
        return task

    async def _load_in_turn(self, product_id: int, seen_epoch: int | None, pause_s: float) -> bool:
        try:
            async with self._turns:
                loaded = await self._load(product_id, seen_epoch)
            if self._catalog is not None:
                await self._catalog.refresh(product_id)
        except FlashSaleError as error:
            log.warning("gate.not_loaded", product_id=product_id, reason=error.detail)
            if not pause_s:
                raise
            loaded = False
        await asyncio.sleep(pause_s)
        return loaded

    async def _load(self, product_id: int, seen_epoch: int | None) -> bool:
        if seen_epoch is None:
            seen = await self._books.epoch_and_free(product_id)
            if seen is None:
                return False
            seen_epoch = seen[0]
            if (await self._gate.state(product_id, seen_epoch)).loaded:
                return True
        if self._gate.away(product_id):
            # The gate is away from here: a new epoch would unload it for processes that still reach it.
            return False
        begun = await self._books.begin_load(product_id, seen_epoch=seen_epoch)
        if begun is None:
            log.info("gate.loaded_elsewhere", product_id=product_id)
            return False
        loaded = await self._gate.load(product_id, epoch=begun[0], stock=begun[1])
        self.loadings += loaded
        log.info("gate.loaded", product_id=product_id, epoch=begun[0], stock=begun[1], installed=loaded)
        return loaded
