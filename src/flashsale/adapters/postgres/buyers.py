"""Accounts of buyers, for administrators: `sql/queries/buyers.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.administration import change
from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.users import user_of
from flashsale.domain.emails import email_key
from flashsale.domain.errors import BuyerNotFound, OpenOrders

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.requests import AdminRequest
    from flashsale.domain.users import User

QUERIES = load("queries/buyers.sql")


class PostgresBuyers:
    """Implements `usecases.buyers.Buyers`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def find(self, email: str) -> Sequence[User]:
        """Find the accounts of buyers with an address, in any form of it."""
        rows = await self._database.fetch(QUERIES["find_buyers"], email, email_key(email))
        return [user_of(row) for row in rows]

    async def erase(self, user_id: UUID, request: AdminRequest | None) -> None:
        """Erase an account's personal data; see the port. A refusal rolls the request's key back."""
        async with change(self._database, "erase_buyer", request) as changing:
            match await changing.connection.fetchval(QUERIES["erase_buyer"].text, user_id):
                case "unknown":
                    raise BuyerNotFound
                case "open":
                    raise OpenOrders
            if not changing.repeated:
                await changing.note(f"account/{user_id}", old=None, new={"erased": True})

    async def archived_orders(self, user_id: UUID) -> int:
        """Count the orders of an account that are in files only."""
        row = await self._database.fetch_row(QUERIES["archived_orders"], user_id)
        return 0 if row is None else int(row["orders"])
