"""Accounts of buyers, for administrators: find one, and erase its personal data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.requests import AdminRequest
    from flashsale.domain.users import User


class Buyers(Protocol):
    """Accounts of buyers in Postgres."""

    async def find(self, email: str) -> Sequence[User]:
        """Find the accounts of buyers with an address, in any form of it."""
        ...

    async def erase(self, user_id: UUID, request: AdminRequest | None) -> None:
        """Erase an account's personal data and end its tokens; once more changes nothing.

        Raises:
            BuyerNotFound, OpenOrders: nothing was changed.
        """
        ...

    async def archived_orders(self, user_id: UUID) -> int:
        """Count the orders of an account that are in files only."""
        ...
