"""The events of the feed: changes of orders, products and stocks, and a new connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from flashsale.domain.products import LiveStock
from flashsale.domain.users import Revocation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from flashsale.domain.orders import OrderStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The listening connection is (again) open. Earlier notifications may be lost, so the reader reads everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderChanged:
    """An order changed its state, or something else of what its buyer is shown."""

    order_id: UUID
    status: OrderStatus
    version: int
    changes: int | None = None
    """The order's count of changes other than of its state; None: the state changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductChanged:
    """A product was created, changed or loaded."""

    product_id: int


Change: TypeAlias = "Connected | OrderChanged | ProductChanged | LiveStock | Revocation"


class LiveFeed(Protocol):
    """The stream of Postgres' notifications. It never ends, and connects again by itself."""

    def changes(self) -> AsyncIterator[Change]:
        """Yield changes; a `Connected` comes first and after every loss of the connection."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the listening connection is open."""
        ...
