"""The traces of orders: each buy's trace goes on wherever something happens to its order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.traces import read_traceparent
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.traces import Origin, TraceContext
    from flashsale.runtime.tracing import Tracer


class OriginRows(Protocol):
    """Where the traces of orders are kept."""

    async def origins(self, order_ids: Sequence[UUID]) -> dict[UUID, Origin]:
        """Read the requests that made orders; orders without one are left out."""
        ...


class OrderTraces:
    """Finds the trace of an order; only a process with a tracer has it."""

    def __init__(self, tracer: Tracer, rows: OriginRows) -> None:
        """Keep the parts."""
        self.tracer = tracer
        self._rows = rows

    async def of(self, order_ids: Sequence[UUID]) -> dict[UUID, TraceContext]:
        """Return the span of each order's buy; what cannot be read is left out, because traces decide nothing."""
        if not order_ids:
            return {}
        try:
            origins = await self._rows.origins(order_ids)
        except (FlashSaleError, PoisonBatch):
            return {}
        read = {order_id: read_traceparent(origin.traceparent or "") for order_id, origin in origins.items()}
        return {order_id: context for order_id, context in read.items() if context is not None}
