"""Before a refusal, ask Postgres for the key's order, the free units, the buyer's units and the waiting orders."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import UUID

from flashsale.domain.errors import CoolingDown, KeyReused, LimitReached, SoldOut, Unavailable
from flashsale.domain.requests import Accepted, BuyRequest, Held, Verdict
from flashsale.usecases.batching import Batcher
from flashsale.usecases.ports import Seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.domain.errors import FlashSaleError
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.ports import Acceptance

DECIDED_PAUSES_S = (0.02, 0.05, 0.1, 0.2)
"""Pauses between the looks at whether other requests got the last units; after the last look comes a 503."""

LOOKUP_BATCH_MAX = 256

SOLD_OUT_S = 0.25
"""How long a process caches a sold-out answer; a known free unit ends it early."""

RECOUNT_S = 0.2
"""Shortest time between two counts of the orders that wait, when there seem to be too many."""


class Confirm:
    """The use case. Requests that run at the same time share each query."""

    def __init__(
        self, *, catalog: Catalog, acceptance: Acceptance, waiting_max: int, queue_max: int, remembers: bool
    ) -> None:
        """Wire it; `remembers`: whether a sold-out answer may be cached."""
        self._catalog = catalog
        self._waiting_max = waiting_max
        self._remembers = remembers
        self._sold_out_until_s: dict[int, float] = {}
        self._looking = Batcher[BuyRequest, Seen](acceptance.look, batch_max=LOOKUP_BATCH_MAX, queue_max=queue_max)
        self._counting = Batcher[int, int](acceptance.free, batch_max=LOOKUP_BATCH_MAX, queue_max=queue_max)
        self._holding = Batcher[tuple[int, UUID], Held](
            acceptance.held, batch_max=LOOKUP_BATCH_MAX, queue_max=queue_max
        )
        self._recounting = Batcher[int, None](self._recount, batch_max=LOOKUP_BATCH_MAX, queue_max=queue_max)
        self._recounted_s = float("-inf")

    def is_sold_out(self, product_id: int) -> bool:
        """Return whether a sold-out answer is cached and no free unit was announced since."""
        said_lately = time.monotonic() < self._sold_out_until_s.get(product_id, 0.0)
        return said_lately and not self._catalog.stock(product_id).free

    async def kept_or_sold_out(self, request: BuyRequest, asked_s: float | None = None) -> Accepted | None:
        """Return the order that exists under the request's key; None if enough units are free in Postgres.

        Raises:
            SoldOut: if fewer units than the request asks for are free at an instant after the request came.
        """
        product_id = request.product_id
        if request.key is None:
            free = await self._counting.submit(product_id)
        else:
            seen = await self._looking.submit(request)
            if seen.verdict is not None:
                return _replayed(seen.verdict)
            free = seen.free
        if free < request.quantity:
            if not free and asked_s is not None and self._remembers:
                self._sold_out_until_s[product_id] = asked_s + SOLD_OUT_S
            raise SoldOut
        return None

    async def until_decided(self, request: BuyRequest) -> Accepted:
        """Wait briefly for the requests that hold leases on the last units; most are decided within milliseconds."""
        for pause_s in DECIDED_PAUSES_S:
            await asyncio.sleep(pause_s)
            if (kept := await self.kept_or_sold_out(request)) is not None:
                return kept
        raise Unavailable("The last units are being decided on; send the same request again.")

    async def over_limit(self, request: BuyRequest) -> LimitReached | None:
        """Return the refusal, if the units that count for the buyer leave no room for the request."""
        held = await self._holding.submit((request.product_id, request.user_id))
        # The process may not have heard of another limit yet.
        limit = held.limit
        if limit is None or held.units + held.cooling + request.quantity <= limit:
            return None
        if held.units + request.quantity <= limit and held.cools_until is not None:
            return CoolingDown(held.cools_until)
        return LimitReached(limit)

    async def too_many_wait(self, product_id: int) -> bool:
        """Whether too many orders wait for a worker; if it seems so, they are counted in Postgres first."""
        if self._catalog.waiting(product_id) <= self._waiting_max:
            return False
        await self._recounting.submit(product_id)
        return self._catalog.waiting(product_id) > self._waiting_max

    async def _recount(self, products: list[int]) -> Sequence[None]:
        await asyncio.sleep(self._recounted_s + RECOUNT_S - time.monotonic())
        self._recounted_s = time.monotonic()
        await self._catalog.count_waiting()
        return [None] * len(products)

    async def refuse(self, request: BuyRequest, refusal: FlashSaleError) -> Accepted:
        """Refuse, unless the key belongs to an accepted request: then repeat its answer."""
        if request.key is not None:
            seen = await self._looking.submit(request)
            if seen.verdict is not None:
                return _replayed(seen.verdict)
        try:
            raise refusal
        finally:
            # The exception refers to this frame and the frame to it: without this line both wait for the collector.
            del refusal


def _replayed(verdict: Verdict) -> Accepted:
    if verdict.accepted is None:
        raise KeyReused
    return verdict.accepted
