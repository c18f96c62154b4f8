"""The accounts of a cell that copies them: read here, and changed in cell 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from flashsale.adapters.postgres.resets import PostgresResets
from flashsale.adapters.postgres.users import PostgresUsers
from flashsale.domain.cells import ACCOUNTS
from flashsale.domain.errors import OtherCell, Unauthenticated

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.users import User


def users_of(database: Database, cell: int) -> PostgresUsers:
    """Return the accounts as a cell has them."""
    return PostgresUsers(database) if cell == ACCOUNTS else CopiedUsers(database)


def resets_of(database: Database, cell: int) -> PostgresResets:
    """Return the requests for new passwords as a cell has them."""
    return PostgresResets(database) if cell == ACCOUNTS else CopiedResets(database)


async def _refuse(*_: object, **__: object) -> NoReturn:
    """Refuse, because cell 0 changes the accounts."""
    raise OtherCell(ACCOUNTS)


class CopiedUsers(PostgresUsers):
    """Implements `ports.Users`; whatever changes an account is refused with `OtherCell`."""

    create = set_password = set_role = raise_generation = create_buyers = _refuse

    async def account(self, user_id: UUID) -> User | None:
        """Read an account by id; `Unauthenticated`, as unknown, if its copy has not arrived."""
        found = await super().account(user_id)
        if found is None:
            raise Unauthenticated("This account does not exist.", unknown=True)
        return found


class CopiedResets(PostgresResets):
    """Implements `usecases.sessions.ResetRequests` likewise: the codes are in cell 0."""

    ask = account = use = _refuse
