"""The order job: check a batch of accepted orders and fan out their payments."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.orders import OrderStatus
from flashsale.usecases.batching import Batcher
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.usecases.ports import Orders

log = structlog.get_logger(__name__)

JOBS_MAX = 16
"""Most jobs in one transaction; each has the orders of one accept transaction."""

QUEUE_MAX = 10_000

REFUSALS_MAX = 3
"""How often Postgres must refuse an order by itself, in one process, before it ends as failed."""


class ProcessOrders:
    """The use case; doing it again changes nothing. Jobs that run at the same time share a transaction."""

    def __init__(self, orders: Orders, *, payment_due_s: float) -> None:
        """A payment whose job is lost is due again after `payment_due_s`."""
        self._orders = orders
        self._payment_due_s = payment_due_s
        self._refusals: Counter[UUID] = Counter()
        self._processing: Batcher[Sequence[UUID], None] = Batcher(
            self._process_jobs, batch_max=JOBS_MAX, queue_max=QUEUE_MAX
        )

    async def __call__(self, order_ids: Sequence[UUID]) -> None:
        """Move the queued ones of a job on. One that Postgres will never take ends as failed, alone.

        Raises:
            Unavailable: if Postgres is away; the orders are due again by themselves.
        """
        await self._processing.submit(order_ids)

    async def _process_jobs(self, jobs: list[Sequence[UUID]]) -> list[None]:
        await self._process([order_id for order_ids in jobs for order_id in order_ids])
        return [None] * len(jobs)

    async def _process(self, order_ids: Sequence[UUID]) -> None:
        try:
            moved = await self._orders.process(order_ids, payment_due_s=self._payment_due_s)
        except PoisonBatch as poison:
            if len(order_ids) > 1:
                middle = len(order_ids) // 2
                await self._process(order_ids[:middle])
                await self._process(order_ids[middle:])
                return
            await self._refused(order_ids[0], poison)
            return
        log.info("orders.processed", asked=len(order_ids), moved=len(moved))

    async def _refused(self, order_id: UUID, poison: PoisonBatch) -> None:
        self._refusals[order_id] += 1
        log.error("order.poison", order_id=str(order_id), refusals=self._refusals[order_id], problem=str(poison))
        if self._refusals[order_id] >= REFUSALS_MAX:
            del self._refusals[order_id]
            await self._orders.end([order_id], OrderStatus.FAILED)
        # Otherwise it is due again by itself: what refuses it may be a migration that is half way.
