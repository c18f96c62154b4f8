"""Find orders, a page at a time: for support, and for exports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flashsale.domain.errors import InvalidInput
from flashsale.domain.instants import check_instant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from flashsale.domain.orders import FoundOrder, OrderFilter

PAGE_MAX = 500
EXPORT_PAGE = 200
"""Orders that are read and rendered at once: some milliseconds, in which the process answers nothing else."""


class FoundOrders(Protocol):
    """Orders in Postgres, by what is asked for them."""

    async def find(self, wanted: OrderFilter, *, before: UUID | None, limit: int) -> Sequence[FoundOrder]:
        """Find orders, newest first, from before an order id."""
        ...


class FindOrders:
    """The use case. The caller checks the permission."""

    def __init__(self, orders: FoundOrders) -> None:
        """Look in these orders."""
        self._orders = orders

    async def __call__(self, wanted: OrderFilter, *, before: UUID | None, limit: int) -> Sequence[FoundOrder]:
        """Find orders, newest first; `before` is the last order of the previous page.

        Raises:
            InvalidInput: if the limit or the time is not valid.
        """
        if not 1 <= limit <= PAGE_MAX:
            raise InvalidInput(field="limit", problem=f"must be 1 to {PAGE_MAX}")
        check_time(wanted)
        return await self._orders.find(wanted, before=before, limit=limit)

    async def pages(self, wanted: OrderFilter) -> AsyncIterator[Sequence[FoundOrder]]:
        """Yield all orders, newest first, each once; the first page may be empty. Orders that are accepted after it are
        left out.

        Each page is a statement of its own, so that an export of any length holds neither a connection nor memory.

        Raises:
            InvalidInput: before the first page, if the time is not valid.
        """
        check_time(wanted)
        before = None
        while True:
            page = await self._orders.find(wanted, before=before, limit=EXPORT_PAGE)
            yield page
            if len(page) < EXPORT_PAGE:
                return
            before = page[-1].order.order_id


def check_time(wanted: OrderFilter) -> None:
    """Refuse a time that ends before it begins, or that no database holds."""
    check_instant("createdFrom", wanted.created_from)
    check_instant("createdTo", wanted.created_to)
    if wanted.created_from is not None and wanted.created_to is not None and wanted.created_to <= wanted.created_from:
        raise InvalidInput(field="createdTo", problem="must be after createdFrom")
