"""Handle due orders: unpaid orders expire, and orders without a job get a new job."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING

import structlog

from flashsale.usecases.halving import halve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.usecases.halving import Postpone
    from flashsale.usecases.ports import Orders, PoisonBatch, Swept
    from flashsale.usecases.return_units import ReturnUnits

log = structlog.get_logger(__name__)

ROUNDS_MAX = 100
"""Maximum number of rounds in one run, so that a run ends."""

ROUND_S = 1.0
"""Maximum duration of a round of the sweep; orders that become due during it are handled in the next one."""

DUE_MAX = 50_000
"""Maximum number of due orders that a round reads, in about 0.1 s."""

BUSY_MAX = 4
"""Maximum number of products that a round waits for at the same time."""

PATIENCE_S = 0.5
"""How long a round waits for each busy product."""


class Sweep:
    """Handles due orders: expires unpaid orders, and gives orders without a job a new job.

    Products take turns, so that the backlog of one product does not delay another. An order that Postgres refuses is
    postponed. Products whose locks are taken come last, and the sweep waits for several of them at the same time.
    """

    def __init__(
        self, orders: Orders, return_units: ReturnUnits, postpone: Postpone, *, limit: int, due_s: float
    ) -> None:
        """Take up to `limit` orders at a time; a woken order is due again after `due_s`."""
        self._orders = orders
        self._return_units = return_units
        self._postpone = postpone
        self._limit = limit
        self._due_s = due_s
        self._running = False
        self.postponed = 0
        """Orders that were refused and have not moved since, when the last sweep ended."""

    async def __call__(self) -> None:
        """Sweep until only orders with taken locks are due; does nothing while a sweep runs in this process."""
        if self._running:
            return
        self._running = True
        try:
            for _ in range(ROUNDS_MAX):
                if not await self._round():
                    break
            self.postponed = await self._orders.count_postponed()
        finally:
            self._running = False

    async def _round(self) -> bool:
        """Sweep the orders that are due now, for about ROUND_S, with the products in turns; True if more may be due."""
        due = _in_turns(await self._orders.due(limit=DUE_MAX))
        ends_s = time.monotonic() + ROUND_S
        busy: set[int] = set()
        done = 0
        while done < len(due) and time.monotonic() < ends_s:
            batch = due[done : done + self._limit]
            done += len(batch)
            busy |= await self._sweep([order_id for order_id, product_id in batch if product_id not in busy])
        # Chosen at random, so that each busy product gets its turn.
        chosen = random.sample(sorted(busy), min(len(busy), BUSY_MAX))
        await asyncio.gather(
            *(
                self._sweep(
                    [order_id for order_id, of in due if of == product_id][: self._limit], patience_s=PATIENCE_S
                )
                for product_id in chosen
            )
        )
        return done < len(due) or len(due) == DUE_MAX

    async def _sweep(self, order_ids: Sequence[UUID], *, patience_s: float | None = None) -> frozenset[int]:
        async def run(part: Sequence[UUID]) -> Swept:
            return await self._orders.sweep(part, due_s=self._due_s, patience_s=patience_s)

        async def refused(order_id: UUID, poison: PoisonBatch) -> None:
            await self._postpone(order_id, poison, job="sweep")

        swept = await halve(order_ids, run, refused)
        expired = sum(one.expired for one in swept)
        deferred = sum(one.deferred for one in swept)
        if expired or deferred:
            log.info("orders.swept", expired=expired, deferred=deferred)
        if expired:
            self._return_units.soon()
        return frozenset().union(*(one.busy for one in swept))


def _in_turns(due: Sequence[tuple[UUID, int]]) -> list[tuple[UUID, int]]:
    """Sort orders so that the first order of each product comes before any second order."""
    turns: Counter[int] = Counter()
    numbered = []
    for order_id, product_id in due:
        numbered.append((turns[product_id], order_id, product_id))
        turns[product_id] += 1
    return [(order_id, product_id) for _, order_id, product_id in sorted(numbered, key=itemgetter(0))]
