"""The order job: check a batch of accepted orders and fan out their payments."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.orders import OrderStatus
from flashsale.domain.traces import NO_ORIGIN, SpanKind, read_traceparent
from flashsale.runtime.logs import lines_of_orders
from flashsale.usecases.batching import Batcher
from flashsale.usecases.halving import halve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from flashsale.domain.traces import Origin
    from flashsale.runtime.tracing import Tracer
    from flashsale.usecases.halving import Postpone
    from flashsale.usecases.ports import Orders, PoisonBatch

log = structlog.get_logger(__name__)

JOBS_MAX = 16
"""Maximum number of jobs in one transaction; each job has the orders of one accept transaction."""

QUEUE_MAX = 10_000

REFUSALS_MAX = 3
"""How often Postgres must refuse an order before it ends as failed."""


class ProcessOrders:
    """The use case. A repetition changes nothing. Concurrent jobs share a transaction."""

    def __init__(
        self, orders: Orders, postpone: Postpone, *, payment_due_s: float, tracer: Tracer | None = None
    ) -> None:
        """A payment whose job is lost is due again after `payment_due_s`."""
        self._orders = orders
        self._tracer = tracer
        self._postpone = postpone
        self._payment_due_s = payment_due_s
        self._processing: Batcher[Sequence[UUID], Sequence[UUID]] = Batcher(
            self._process_jobs, batch_max=JOBS_MAX, queue_max=QUEUE_MAX
        )

    async def __call__(self, order_ids: Sequence[UUID]) -> None:
        """Move the queued orders of a job on. An order without its units, or refused too often, ends as failed.

        Raises:
            Unavailable: if Postgres is away; the sweep wakes the orders again.
        """
        failed = await self._processing.submit(order_ids)
        # Outside the lane that all jobs share, because this statement waits for locks of the orders' products.
        for order_id in failed:
            await halve([order_id], self._fail, self._not_failed)

    async def _process_jobs(self, jobs: list[Sequence[UUID]]) -> list[Sequence[UUID]]:
        failed: set[UUID] = set()

        async def refused(order_id: UUID, poison: PoisonBatch) -> None:
            if await self._postpone(order_id, poison, job="process") >= REFUSALS_MAX:
                failed.add(order_id)

        order_ids = [order_id for order_ids in jobs for order_id in order_ids]
        for moved in await halve(order_ids, self._process, refused):
            failed.update(order_id for order_id, status in moved.items() if status is OrderStatus.QUEUED)
        return [[order_id for order_id in order_ids if order_id in failed] for order_ids in jobs]

    async def _process(self, order_ids: Sequence[UUID]) -> dict[UUID, OrderStatus]:
        began_ns = time.time_ns()
        moved = await self._orders.process(order_ids, payment_due_s=self._payment_due_s)
        try:
            origins = await self._orders.origins(list(moved))
        except FlashSaleError:
            # The orders have moved; only their lines lack the ids.
            origins = {}
        for orders in lines_of_orders([(order_id, origins.get(order_id, NO_ORIGIN)) for order_id in moved]):
            log.info("orders.processed", orders=orders)
        if self._tracer is not None:
            self._trace(self._tracer, origins, began_ns)
        return moved

    @staticmethod
    def _trace(tracer: Tracer, origins: Mapping[UUID, Origin], began_ns: int) -> None:
        """Note a span in the trace of each order: one transaction moved them all."""
        for order_id, origin in origins.items():
            if (parent := read_traceparent(origin.traceparent or "")) is not None:
                facts: dict[str, str | int] = {"flashsale.order_id": str(order_id), "flashsale.orders": len(origins)}
                tracer.note("process order", SpanKind.CONSUMER, parent, began_ns, facts)

    async def _fail(self, order_ids: Sequence[UUID]) -> None:
        ended = await self._orders.end(order_ids, OrderStatus.FAILED)
        for orders in lines_of_orders([(order_id, NO_ORIGIN) for order_id in ended]):
            log.error("orders.failed", orders=orders)

    async def _not_failed(self, order_id: UUID, poison: PoisonBatch) -> None:
        await self._postpone(order_id, poison, job="fail")
