"""The gate compared with Postgres (I3). The gate may lag behind by a reconciliation, so a mismatch is rechecked."""

from __future__ import annotations

import asyncio
import enum
import time
from typing import TYPE_CHECKING, Protocol

from flashsale.usecases.findings import Checked, found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.usecases.ports import Acceptance, Gate, GateBooks

PAUSE_S = 0.5
"""Pause between two checks."""

LAG_S = 6.0
"""How long, after the deadline of the last lease, the reconciliation may take to notice, and to load the gate again."""

LOADED_PER_S = 50.0
"""Minimum number of gates that a reconciliation loads; after a flush the gates of idle products wait for their turn."""

RETURN_S = 15.0
"""How long a return may wait while the gate is loaded."""

PROMISE = (
    "Gate stock and units of leases not in Postgres are the free units, and the gate of each product on sale is loaded."
)


class Returns(Protocol):
    """What this check reads from Postgres."""

    async def sales(self) -> Sequence[tuple[int, bool]]:
        """Read every product, and whether it is on sale now."""
        ...

    async def owed_returns(self, product_id: int) -> tuple[int, float]:
        """Read the units whose return the gate has not counted, and the age of the oldest return in seconds."""
        ...


class _Seen(enum.Enum):
    RIGHT = enum.auto()
    BYPASSED = enum.auto()
    WRONG = enum.auto()


class GateAudit:
    """Compares the gate of every product with Postgres."""

    def __init__(
        self,
        *,
        truth: Returns,
        books: GateBooks,
        gate: Gate,
        acceptance: Acceptance,
        lease_s: float,
        bypass_allowed: bool,
    ) -> None:
        """Leases live `lease_s` seconds; with `bypass_allowed`, the gate of a product on sale need not be loaded."""
        self._truth = truth
        self._books = books
        self._gate = gate
        self._acceptance = acceptance
        self._lease_s = lease_s
        self._bypass_allowed = bypass_allowed

    async def __call__(self) -> Checked:
        """Check every product until its gate is right, or has been wrong for longer than the reconcile lag."""
        sales = wrong = await self._truth.sales()
        bypassed = 0
        until_s = time.monotonic() + self._lease_s + LAG_S + len(sales) / LOADED_PER_S
        while True:
            seen = [((product_id, on_sale), await self._look(product_id, on_sale)) for product_id, on_sale in wrong]
            bypassed += sum(one is _Seen.BYPASSED for _, one in seen)
            wrong = [sale for sale, one in seen if one is _Seen.WRONG]
            if not wrong or time.monotonic() >= until_s:
                break
            await asyncio.sleep(PAUSE_S)
        note = f"{bypassed:,} bypassed" if bypassed else None
        return found("I3", PROMISE, len(sales), [str(product_id) for product_id, _ in wrong], note=note)

    async def _look(self, product_id: int, on_sale: bool) -> _Seen:  # noqa: FBT001
        at = await self._books.epoch_and_free(product_id)
        if at is None:
            return _Seen.WRONG
        epoch, live = at
        state = await self._gate.state(product_id, epoch)
        if not state.loaded:
            return _Seen.WRONG if on_sale and not self._bypass_allowed else _Seen.BYPASSED
        decided = await self._acceptance.accepted(state.leased_order_ids)
        open_units = state.leased_units - sum(order.quantity for order in decided.values())
        owed, waited_s = await self._truth.owed_returns(product_id)
        if state.stock + open_units + owed != live.free or waited_s > RETURN_S:
            return _Seen.WRONG
        # The reconciliation gives leases back after their deadline.
        if await self._gate.overdue_leases(product_id, limit=1):
            return _Seen.WRONG
        return _Seen.RIGHT
