"""What passes between the use cases and the gate: admissions, leases, returns."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from uuid import UUID


class Admission(enum.StrEnum):
    """The gate's answer to a request."""

    # Units are leased to this request; `Admitted.order_id` is the proposal to take to Postgres.
    ADMITTED = "admitted"
    SOLD_OUT = "sold_out"
    LIMIT_REACHED = "limit_reached"
    RATE_LIMITED = "rate_limited"
    # The gate is down or not loaded: Postgres decides without it.
    BYPASS = "bypass"


class LeaseEnd(enum.IntEnum):
    """What becomes of a lease's units once Postgres has decided. The values are those of `admit.lua`."""

    # An order holds them.
    KEPT = 0
    # They go back: the proposal is void.
    GIVEN_BACK = 1
    # Postgres has too few: what it has goes back.
    SHORT = 2


class Admitted(NamedTuple):
    """An admission with what belongs to it."""

    admission: Admission
    order_id: UUID
    """The proposal. Another request's, if one with the same key holds a lease already."""
    epoch: int | None
    """The lease's epoch; None without a lease."""
    window_s: int = 0
    """Only if rate limited: the length of the window in which there were too many requests."""
    retry_after_s: int = 0
    """Only if rate limited."""
    leases: int = 0
    """How many leases are open at the gate: requests about which Postgres has not decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease past its deadline."""

    order_id: UUID
    user_id: UUID
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReturn:
    """Units that an order gave back and that the gate is to count again, once, under `epoch`."""

    order_id: UUID
    product_id: int
    user_id: UUID
    quantity: int
    epoch: int
    cools_ms: int = 0
    """How long the units still count for the buyer, in milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """What the gate holds for a product."""

    loaded: bool
    """Whether epoch and server are those of the last loading, and every value is well-formed."""
    epoch: int | None
    stock: int
    leases: int
    leased_units: int
    """Of all leases."""
    leased_order_ids: tuple[UUID, ...]
    """At most 1,000 of them."""

    @property
    def counted(self) -> int:
        """Units that the gate knows of, free or leased."""
        return self.stock + self.leased_units
