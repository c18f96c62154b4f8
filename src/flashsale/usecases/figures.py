"""The current counts of Postgres and the gate, for metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.domain.gate import GateState
    from flashsale.usecases.ports import Acceptance, Gate

QUEUES = ("orders", "payments", "maintenance", "upkeep")
"""The queues that exist. Maintenance workers have the last two, each with its own slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductCount:
    """A product as Postgres counts it."""

    product_id: int
    epoch: int
    allotment: int
    free: int
    on_return: int
    """Free units whose return the gate has not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The waiting messages of one target of the outbox."""

    target: str
    waiting: int
    dead: int
    oldest_s: float
    """Seconds since the message that waits longest was written; 0 if none waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Counts of the database."""

    orders: dict[str, int]
    """By status."""
    oldest_s: dict[str, float]
    """By status that is not final: seconds since the order that changed longest ago did."""
    value_minor: dict[tuple[str, str], int]
    """Sum of the orders' prices by status and currency, in minor units."""
    order_s: dict[float, float]
    """By quantile: seconds from 202 to the final state, or until now, of the last five minutes' orders."""
    jobs: dict[tuple[str, str], int]
    """By queue and status."""
    job_oldest_s: dict[tuple[str, str], float]
    """By queue and status: seconds since the oldest job was deferred."""
    outbox: Sequence[Told]
    """Targets of the outbox with their waiting messages."""
    notify_queue_usage: float
    """Share of the server's notification queue in use, 0 to 1."""
    connections: int
    """Connections to the database, of all programs."""
    connections_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sales:
    """The orders of a product in one status."""

    product_id: int
    status: str
    units: int
    value_minor: int
    """Sum of their prices, in minor units of the product's currency."""
    refunded_minor: int = 0
    """What of it was given back, if that was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Recent activity."""

    accepted_per_s: float
    """In the last 10 seconds, like the next field."""
    confirmed_per_s: float
    attempts: dict[str, int]
    """Payment attempts of the orders of the last five minutes, by outcome; `open`: the gateway is being asked."""
    workers: int
    """Workers that reported within 30 seconds."""
    postponed: int
    """Orders that Postgres refused to change."""


class FiguresSource(Protocol):
    """Reads figures."""

    async def read(self) -> Figures:
        """Count orders and jobs.

        Raises:
            Unavailable: if Postgres is away.
        """
        ...

    async def pace(self) -> Pace:
        """Count recent activity.

        Raises:
            Unavailable: if Postgres is away.
        """
        ...

    async def sales(self, product_ids: Sequence[int]) -> Sequence[Sales]:
        """Count the orders of products by status.

        Raises:
            Unavailable: if Postgres is away.
        """
        ...

    async def sales_and_refunds(self, product_ids: Sequence[int]) -> Sequence[Sales]:
        """Count the same, and what was given back; reads each order that was refunded in part.

        Raises:
            Unavailable: if Postgres is away.
        """
        ...

    async def products(self, *, limit: int) -> Sequence[ProductCount]:
        """Count the units of the newest products that are not archived.

        Raises:
            Unavailable: if Postgres is away.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFigures:
    """A product in Postgres and in the gate."""

    count: ProductCount
    state: GateState
    drift: int
    """Units that the gate counts (free, or leased to requests without an order), less the units that are right."""


async def compare_gate(
    figures: FiguresSource, gate: Gate, acceptance: Acceptance, *, limit: int
) -> Sequence[GateFigures]:
    """Compare the gate with Postgres for the newest products.

    Units move during the comparison, so Postgres is read before and after the gate. A gate whose count lies between the
    two has a drift of 0.

    Raises:
        Unavailable: if Postgres is away.
    """
    compared = []
    before = await figures.products(limit=limit)
    states = [await gate.state(product.product_id, product.epoch) for product in before]
    decided = await acceptance.accepted([one for state in states for one in state.leased_order_ids])
    after = {product.product_id: product for product in await figures.products(limit=limit)}
    for earlier, state in zip(before, states, strict=True):
        later = after.get(earlier.product_id, earlier)
        owed = [earlier.free - earlier.on_return, later.free - later.on_return]
        settled = sum(decided[one].quantity for one in state.leased_order_ids if one in decided)
        counted = state.counted - settled
        drift = counted - min(max(counted, min(owed)), max(owed)) if state.loaded else 0
        compared.append(GateFigures(count=later, state=state, drift=drift))
    return compared
