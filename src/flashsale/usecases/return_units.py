"""Tell the gate that released units are free again."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.gate import GateReturn
    from flashsale.usecases.ports import Gate, GateBooks

log = structlog.get_logger(__name__)

ROUNDS_MAX = 100
"""Most batches in one run, so that a run ends."""

EACH_MAX = 100
"""Most returns of one product in a batch."""

PAUSE_S = 0.1
"""Minimum time between two background runs; the first begins immediately."""


class ReturnUnits:
    """The use case. Any process may send the rows in `gate_returns` to the gate, which counts each once."""

    def __init__(self, books: GateBooks, gate: Gate, *, limit: int) -> None:
        """Take up to `limit` returns at a time."""
        self._books = books
        self._gate = gate
        self._limit = limit
        self._running: asyncio.Task[None] | None = None
        self._again = False
        self._next_s = 0.0

    async def __call__(self) -> None:
        """Send all returns to the gate. Returns of a product whose gate is not loaded stay, because a load counts them.

        Raises:
            Unavailable: if Postgres is away.
        """
        unloaded: set[int] = set()
        seen: set[UUID] = set()
        for _ in range(ROUNDS_MAX):
            # Each product has a share of a round, so a product whose gate takes no returns does not delay the others.
            rows = await self._books.returns(limit=self._limit, each=EACH_MAX, but=unloaded)
            groups: defaultdict[tuple[int, int], list[GateReturn]] = defaultdict(list)
            for row in rows:
                groups[row.product_id, row.epoch].append(row)
            done: list[UUID] = []
            for (product_id, _), returns in groups.items():
                if await self._gate.return_units(product_id, returns):
                    done += [one.order_id for one in returns]
                else:
                    # Its server may be away, or have another loading.
                    unloaded.add(product_id)
            if done:
                await self._books.forget_returns(done)
                log.info("units.returned", orders=len(done))
            met = {row.order_id for row in rows}
            if met <= seen:
                # No returns are left, or only returns that another process is deleting.
                return
            seen |= met

    def soon(self) -> None:
        """Start a run in the background; calls that arrive during a run share the next run."""
        self._again = True
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Wait for the run in the background."""
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        while self._again:
            self._again = False
            now_s = time.monotonic()
            if now_s < self._next_s:
                await asyncio.sleep(self._next_s - now_s)
            self._next_s = time.monotonic() + PAUSE_S
            try:
                await self()
            except FlashSaleError as error:
                # The maintenance worker sends the returns later.
                log.info("units.not_returned", reason=error.detail)
