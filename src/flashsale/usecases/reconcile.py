"""Reconcile the gate with Postgres: returns, leases past their deadline, a gate that counts wrong or is not loaded."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.usecases.give_up import give_up
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.domain.gate import GateState
    from flashsale.usecases.load_gate import LoadGate
    from flashsale.usecases.ports import Acceptance, Gate, GateBooks, LiveEpoch
    from flashsale.usecases.return_units import ReturnUnits

log = structlog.get_logger(__name__)

OFF_S = 2.0
"""How long a gate must count wrong before a reload, because changes in flight look the same for a moment."""

LOOKED_AT_ONCE = 100
"""Number of products in one round trip to the gate."""

LOADINGS_MAX = 16
"""Maximum number of concurrent loads."""


class Reconcile:
    """The use case. Each run checks the products that may be wrong, and a few of the others in turns.

    A product may be wrong if its stock or epoch changed since the last check, or if that check found leases, a wrong
    count or a gate that is not loaded. A request that died before it reached Postgres leaves no such sign, so idle
    products are checked in turns.
    """

    def __init__(
        self,
        *,
        books: GateBooks,
        gate: Gate,
        acceptance: Acceptance,
        load_gate: LoadGate,
        return_units: ReturnUnits,
        limit: int,
        idle: int,
        budget_s: float,
    ) -> None:
        """Take up to `limit` leases of a product at a time, `idle` idle products per run, and about `budget_s`."""
        self._books = books
        self._gate = gate
        self._acceptance = acceptance
        self._load_gate = load_gate
        self._return_units = return_units
        self._limit = limit
        self._idle = idle
        self._budget_s = budget_s
        self._running = False
        self._right: dict[int, LiveEpoch] = {}
        """What was found at rest and right, as Postgres had it then."""
        self._looked_s: dict[int, float] = {}
        self._off_since_s: dict[int, float] = {}
        self._loadings: set[asyncio.Task[None]] = set()

    async def __call__(self) -> None:
        """Reconcile for about `budget_s`; does nothing while a run is in progress in this process.

        Raises:
            Unavailable: if Postgres is away.
        """
        if self._running:
            return
        self._running = True
        try:
            await self._run(ends_s=time.monotonic() + self._budget_s)
        finally:
            self._running = False

    async def _run(self, *, ends_s: float) -> None:
        await self._return_units()
        live = {one.product_id: one for one in await self._books.live()}
        for known in (self._right, self._looked_s, self._off_since_s):
            for product_id in known.keys() - live.keys():
                del known[product_id]
        suspects = [one for one in live.values() if self._right.get(one.product_id) != one]
        suspected = {one.product_id for one in suspects}
        idle = [one for one in live.values() if one.product_id not in suspected]
        await self._look_in_turns(suspects, LOOKED_AT_ONCE, ends_s)
        await self._look_in_turns(idle, self._idle, ends_s, enough=True)
        await self._await_loadings(0, ends_s)

    async def _look_in_turns(
        self, products: Sequence[LiveEpoch], at_once: int, ends_s: float, *, enough: bool = False
    ) -> None:
        """Compare products, the least recently compared first. `enough`: stop after a part with a load."""
        products = sorted(products, key=lambda one: self._looked_s.get(one.product_id, 0.0))
        for at in range(0, len(products), at_once):
            if time.monotonic() >= ends_s:
                return
            if not await self._look(products[at : at + at_once], ends_s) and enough:
                return

    async def _await_loadings(self, left: int, ends_s: float) -> None:
        """Wait until at most `left` loads run. A load that waits for a lock continues and delays no other."""
        while len(self._loadings) > left and (rest_s := ends_s - time.monotonic()) > 0:
            await asyncio.wait(self._loadings, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)

    async def _look(self, products: Sequence[LiveEpoch], ends_s: float) -> bool:
        """Compare products; returns whether a gate was not loaded."""
        states = await self._gate.states({one.product_id: one.epoch for one in products})
        products = [one for one in products if not self._gate.away(one.product_id)]
        unloaded: list[LiveEpoch] = []
        unsure: list[tuple[LiveEpoch, GateState]] = []
        for one in products:
            state = states[one.product_id]
            self._looked_s[one.product_id] = time.monotonic()
            if not state.loaded:
                unloaded.append(one)
            elif state.leases or state.stock != one.free:
                unsure.append((one, state))
            else:
                self._settle(one)
        for one in unloaded:
            self._right.pop(one.product_id, None)
        if unsure:
            await self._look_closer(unsure)
        for one in unloaded:
            await self._await_loadings(LOADINGS_MAX, ends_s)
            if time.monotonic() >= ends_s:
                break
            loading = asyncio.create_task(self._load(one))
            self._loadings.add(loading)
            loading.add_done_callback(self._loadings.discard)
        return bool(unloaded)

    async def _look_closer(self, unsure: Sequence[tuple[LiveEpoch, GateState]]) -> None:
        for one, state in unsure:
            self._right.pop(one.product_id, None)
            if state.leases:
                try:
                    await self._give_up_overdue(one.product_id)
                except FlashSaleError as error:
                    # A running accept holds one of the leases; the other products are still checked.
                    log.warning("leases.not_given_up", product_id=one.product_id, reason=error.detail)
        owed = await self._books.owed([one.product_id for one, _ in unsure])
        after = await self._gate.states({one.product_id: one.epoch for one, _ in unsure})
        for one, before in unsure:
            await self._judge(one, before, after[one.product_id], owed.get(one.product_id, 0))

    async def _judge(self, one: LiveEpoch, before: GateState, after: GateState, owed: int) -> None:
        product_id = one.product_id
        # Two reads of the gate: a unit that was settled or returned between the reads is in one of them.
        low = max(before.counted, after.counted) < owed
        # A surplus, as after accepts that bypassed the gate, shrinks while buyers buy: Postgres refuses, and the lease
        # is not returned. It counts only while no lease is open, because leases about to be settled look the same.
        high = not before.leases and not after.leases and min(before.stock, after.stock) > owed
        if after.loaded and (low or high):
            now_s = time.monotonic()
            if now_s - self._off_since_s.setdefault(product_id, now_s) >= OFF_S:
                log.warning("gate.off", product_id=product_id, stock=after.stock, owed=owed)
                self._off_since_s.pop(product_id, None)
                await self._load(one)
        else:
            self._off_since_s.pop(product_id, None)

    def _settle(self, one: LiveEpoch) -> None:
        self._right[one.product_id] = one
        self._off_since_s.pop(one.product_id, None)

    async def _load(self, one: LiveEpoch) -> None:
        try:
            await self._load_gate(one.product_id, seen_epoch=one.epoch)
        except FlashSaleError as error:
            log.warning("product.not_reconciled", product_id=one.product_id, reason=error.detail)
        except PoisonBatch as poison:
            # Postgres refuses this product alone; the others must not wait for a person.
            log.error("product.refused", product_id=one.product_id, problem=str(poison).partition("\n")[0])  # noqa: TRY400

    async def _give_up_overdue(self, product_id: int) -> None:
        leases = await self._gate.overdue_leases(product_id, limit=self._limit)
        if leases:
            voids = await give_up(self._acceptance, [lease.order_id for lease in leases])
            for order_id, void in voids.items():
                if void:
                    self._gate.give_back(product_id, order_id)
                else:
                    self._gate.settle(product_id, order_id)
            log.info("leases.overdue", product_id=product_id, leases=len(leases), void=sum(voids.values()))
