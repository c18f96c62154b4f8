"""Maintenance: wake due orders, give returned units to the gate, reconcile the gate with Postgres."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError

if TYPE_CHECKING:
    from flashsale.domain.products import Product
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.load_gate import LoadGate
    from flashsale.usecases.ports import Acceptance, Gate, Orders, Products
    from flashsale.usecases.return_units import ReturnUnits

log = structlog.get_logger(__name__)

ROUNDS_MAX = 100
"""Most sweeps in one run, so that a run ends."""

OFF_S = 2.0
"""How long a gate must have counted wrong: changes on their way look the same for a moment."""


class Sweep:
    """Wakes due orders: expiry of those that wait for their buyer, new jobs for those whose job is gone."""

    def __init__(self, orders: Orders, return_units: ReturnUnits, *, limit: int, due_s: float) -> None:
        """Take up to `limit` orders at a time; those woken are due again after `due_s`."""
        self._orders = orders
        self._return_units = return_units
        self._limit = limit
        self._due_s = due_s

    async def __call__(self) -> None:
        """Sweep until fewer than `limit` orders were due."""
        for _ in range(ROUNDS_MAX):
            expired, deferred, looked_at = await self._orders.sweep(limit=self._limit, due_s=self._due_s)
            if expired or deferred:
                log.info("orders.swept", expired=expired, deferred=deferred)
            if expired:
                self._return_units.soon()
            if looked_at < self._limit:
                return


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
