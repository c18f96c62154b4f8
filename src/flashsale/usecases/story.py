"""Everything that happened to one order, for support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flashsale.domain.errors import OrderNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from flashsale.domain.money import Money
    from flashsale.domain.orders import OrderStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event of a story."""

    at: datetime
    kind: str
    """`status`, `payment_begun`, `payment_ended`, ...: docs/how-to/answer-a-buyer.md has all."""
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """An order, its buyer, and its events."""

    order_id: UUID
    user_id: UUID
    email: str
    buyer_name: str
    product_id: int
    product_name: str
    quantity: int
    unit_price: Money
    status: OrderStatus
    payment_mode: str
    due_at: datetime | None
    """When the sweep looks at the order again; None: it is final."""
    key: str | None
    """The idempotency key of its request."""
    request_id: str | None
    """The id of the HTTP request that made it, which log lines carry; None: the order is from before revision 0033."""
    trace_id: str | None
    """The id of its trace; None: the process that took the request did not trace."""
    units: Sequence[int]
    """Numbers of the units that it holds."""
    entries: Sequence[Entry]
    """In the order of time."""


class Stories(Protocol):
    """Reads stories."""

    async def read(self, order_id: UUID) -> Story | None:
        """Read one order's story; None if there is no such order.

        Raises:
            OrderArchived: if it is in files only.
            Unavailable: if Postgres is away.
        """
        ...


async def story_of(stories: Stories, order_id: UUID) -> Story:
    """Return the story of an order.

    Raises:
        OrderNotFound: if there is none.
        OrderArchived: if it is in files only.
    """
    story = await stories.read(order_id)
    if story is None:
        raise OrderNotFound
    return story
