"""Give back leases of undecided proposals: a queue was full, Postgres was slow or away, or the buyer disconnected."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import structlog

from flashsale.domain.errors import Unavailable
from flashsale.usecases.halving import halve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.usecases.ports import Acceptance, Gate, PoisonBatch

log = structlog.get_logger(__name__)

BATCH_MAX = 256

WAITING_MAX = 100_000
"""Maximum number of leases that wait; further leases expire at their deadlines."""

PAUSE_S, PAUSE_MAX_S = 0.05, 1.0
"""First and longest pause before Postgres is asked again."""

PATIENCE_S = 0.25
"""Maximum wait for proposals that Postgres is processing; then the others of the batch continue without them."""

CLOSE_S = 2.0
"""How long a stopping process still tries."""


class _Lease(NamedTuple):
    product_id: int
    order_id: UUID
    until_s: float


class GiveUp:
    """The use case: void the proposal, then return the lease; a proposal that turns out to be an order is settled."""

    def __init__(self, gate: Gate, acceptance: Acceptance, *, lease_s: float) -> None:
        """Try for `lease_s`. After that the lease has expired, and the reconciliation gives it back."""
        self._gate = gate
        self._acceptance = acceptance
        self._lease_s = lease_s
        self._waiting: deque[_Lease] = deque()
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """The number of leases that wait to be given back."""
        return len(self._waiting)

    def soon(self, product_id: int, order_id: UUID) -> None:
        """Start it in the background; leases that arrive during a run share the next statement."""
        if len(self._waiting) >= WAITING_MAX:
            return
        self._waiting.append(_Lease(product_id, order_id, time.monotonic() + self._lease_s))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Continue for a short time; leases that are left expire at their deadlines."""
        if self._running is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._running

    async def _run(self) -> None:
        pause_s = PAUSE_S
        while self._waiting:
            leases = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
            try:
                voids = await give_up(self._acceptance, [lease.order_id for lease in leases])
            except Unavailable:
                voids = {}
            now_s = time.monotonic()
            for lease in leases:
                void = voids.get(lease.order_id)
                if void:
                    self._gate.give_back(lease.product_id, lease.order_id)
                elif void is not None:
                    self._gate.settle(lease.product_id, lease.order_id)
                elif lease.until_s > now_s:
                    # Behind the others.
                    self._waiting.append(lease)
            if voids:
                pause_s = PAUSE_S
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)


async def give_up(acceptance: Acceptance, order_ids: Sequence[UUID]) -> dict[UUID, bool]:
    """Void proposals; True for each that is void, False for each that is an order.

    Left out is what cannot be decided yet, and what Postgres refuses permanently: no other request waits for it.

    Raises:
        Unavailable: if Postgres is away.
    """

    async def void(order_ids: Sequence[UUID]) -> dict[UUID, bool]:
        return await acceptance.void(order_ids, patience_s=PATIENCE_S)

    async def refused(order_id: UUID, poison: PoisonBatch) -> None:
        problem = str(poison).partition("\n")[0]
        log.error("lease.not_given_up", order_id=str(order_id), problem=problem)

    return {order_id: is_void for part in await halve(order_ids, void, refused) for order_id, is_void in part.items()}
