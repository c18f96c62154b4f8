"""Maintenance: wake due orders, give returned units to the gate, reconcile the gate with Postgres."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.usecases.halving import halve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.products import Product
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.halving import Postpone
    from flashsale.usecases.load_gate import LoadGate
    from flashsale.usecases.ports import Acceptance, Gate, Orders, PoisonBatch, Products, Swept
    from flashsale.usecases.return_units import ReturnUnits

log = structlog.get_logger(__name__)

ROUNDS_MAX = 100
"""Most rounds of one run, so that a run ends."""

ROUND_S = 1.0
"""Longest time of a sweep's round; what became due meanwhile gets its turn in the next one."""

DUE_MAX = 50_000
"""Most due orders that a round reads: about 0.1 s."""

BUSY_MAX = 4
"""Most products that a round waits for, at the same time."""

PATIENCE_S = 0.5
"""How long it waits for each."""

OFF_S = 2.0
"""How long a gate must have counted wrong: changes on their way look the same for a moment."""


class Sweep:
    """Wakes due orders: expiry of those that wait for their buyer, new jobs for those whose job is gone.

    Products take turns, so that the backlog of one holds no other up. An order that Postgres refuses is postponed, and
    a product whose locks are taken is left for last and waited for with others at the same time.
    """

    def __init__(
        self, orders: Orders, return_units: ReturnUnits, postpone: Postpone, *, limit: int, due_s: float
    ) -> None:
        """Take up to `limit` orders at a time; those woken are due again after `due_s`."""
        self._orders = orders
        self._return_units = return_units
        self._postpone = postpone
        self._limit = limit
        self._due_s = due_s
        self._running = False
        self.postponed = 0
        """Orders that were refused and have not moved since, when the last sweep ended."""

    async def __call__(self) -> None:
        """Sweep until nothing is due but what others hold; does nothing while a sweep runs in this process."""
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
        """Sweep what is due now, for about ROUND_S, product by product in turns; says whether there may be more."""
        due = _in_turns(await self._orders.due(limit=DUE_MAX))
        ends_s = time.monotonic() + ROUND_S
        busy: set[int] = set()
        done = 0
        while done < len(due) and time.monotonic() < ends_s:
            batch = due[done : done + self._limit]
            done += len(batch)
            busy |= await self._sweep([order_id for order_id, product_id in batch if product_id not in busy])
        # Chosen at random, so that each gets its turn however many are busy.
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
    """Order them so that each product's first comes before any product's second."""
    turns: Counter[int] = Counter()
    numbered = []
    for order_id, product_id in due:
        numbered.append((turns[product_id], order_id, product_id))
        turns[product_id] += 1
    return [(order_id, product_id) for _, order_id, product_id in sorted(numbered, key=itemgetter(0))]


class Reconcile:
    """Brings the gate and Postgres together: returns, leases past their deadline, a gate that counts wrong."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        products: Products,
        gate: Gate,
        acceptance: Acceptance,
        load_gate: LoadGate,
        return_units: ReturnUnits,
        limit: int,
    ) -> None:
        """Take up to `limit` leases of a product at a time."""
        self._catalog = catalog
        self._products = products
        self._gate = gate
        self._acceptance = acceptance
        self._load_gate = load_gate
        self._return_units = return_units
        self._limit = limit
        self._off_since_s: dict[int, float] = {}

    async def __call__(self) -> None:
        """Reconcile every product once."""
        await self._catalog.refresh()
        await self._return_units()
        failed: FlashSaleError | None = None
        for product in self._catalog.all():
            try:
                await self._product(product)
            except FlashSaleError as error:
                # The others must not wait for this one.
                log.warning("product.not_reconciled", product_id=product.product_id, reason=error.detail)
                failed = error
        if failed is not None:
            raise failed

    async def _product(self, product: Product) -> None:
        product_id = product.product_id
        seen = await self._products.epoch_and_free(product_id)
        if seen is None:
            return
        epoch, _ = seen
        state = await self._gate.state(product_id, epoch)
        if not state.loaded:
            await self._load_gate(product_id)
            return
        await self._give_up_overdue(product_id)
        owed = await self._products.owed_to_gate(product_id)
        after = await self._gate.state(product_id, epoch)
        # Looked at from both sides: what was settled since the first look, or came back, is in one of the two.
        low = max(state.counted, after.counted) < owed
        # Too high, as after accepts that bypassed the gate, heals while buyers press: Postgres refuses, and the lease
        # is not returned. Only a gate at rest counts: leases that are about to be settled look the same.
        high = not state.leases and not after.leases and min(state.stock, after.stock) > owed
        if after.loaded and (low or high):
            now_s = time.monotonic()
            if now_s - self._off_since_s.setdefault(product_id, now_s) >= OFF_S:
                log.warning("gate.off", product_id=product_id, stock=after.stock, owed=owed)
                await self._load_gate(product_id, force=True)
                del self._off_since_s[product_id]
        else:
            self._off_since_s.pop(product_id, None)

    async def _give_up_overdue(self, product_id: int) -> None:
        leases = await self._gate.overdue_leases(product_id, limit=self._limit)
        if leases:
            voids = await self._acceptance.void([lease.order_id for lease in leases])
            for order_id, void in voids.items():
                if void:
                    self._gate.give_back(product_id, order_id)
                else:
                    self._gate.settle(product_id, order_id)
            log.info("leases.overdue", product_id=product_id, leases=len(leases), void=sum(voids.values()))
