"""Decisions of Postgres about leases, until the gate has received them."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from flashsale.domain.gate import LeaseEnd

WAITING_MAX = 100_000
"""Maximum number of waiting decisions; further leases wait for their deadlines."""

KEPT_S = 10.0
"""How long a decision is sent again to a gate that does not answer; then the deadline of the lease decides."""


class Decision(NamedTuple):
    """The end of a lease. The gate applies only the first decision about a lease, so a decision may be sent twice."""

    product_id: int
    order_id: UUID
    end: LeaseEnd
    units: int
    """GIVEN_BACK: units that the buyer's orders hold. SHORT: units that are there."""
    decided_s: float
    """By this process' monotonic clock."""


class Decisions:
    """Decisions by product, the oldest first."""

    def __init__(self) -> None:
        """Start empty."""
        self._waiting: defaultdict[int, deque[Decision]] = defaultdict(deque)
        self._count = 0

    def __len__(self) -> int:
        """The number of decisions that wait."""
        return self._count

    @property
    def products(self) -> list[int]:
        """The products with waiting decisions."""
        return list(self._waiting)

    def add(self, decision: Decision) -> None:
        """Keep a decision, unless too many wait."""
        if self._count < WAITING_MAX:
            self._waiting[decision.product_id].append(decision)
            self._count += 1

    def take(self, product_id: int, most: int) -> list[Decision]:
        """Remove and return up to `most` decisions about a product's leases; drop decisions that waited too long."""
        waiting = self._waiting.get(product_id)
        if waiting is None:
            return []
        now_s = time.monotonic()
        taken: list[Decision] = []
        while waiting and len(taken) < most:
            self._count -= 1
            if (decision := waiting.popleft()).decided_s > now_s - KEPT_S:
                taken.append(decision)
        if not waiting:
            del self._waiting[product_id]
        return taken

    def put_back(self, decisions: Iterable[Decision]) -> None:
        """Keep decisions again that may not have reached the gate."""
        for decision in decisions:
            self.add(decision)
