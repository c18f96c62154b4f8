"""Accounts: `sql/queries/users.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg

from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.trail import authored, note_action
from flashsale.domain.emails import email_key
from flashsale.domain.errors import EmailTaken
from flashsale.domain.users import Revocation, Role, User
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database
    from flashsale.adapters.postgres.queries import Query
    from flashsale.domain.trail import Author

QUERIES = load("queries/users.sql")


class PostgresUsers:
    """Implements `ports.Users`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def create(
        self, *, name: str, email: str, password_hash: str | None, role: Role, by: Author | None = None
    ) -> User:
        """Create an account; `EmailTaken` if the email is in use."""
        query, more = (QUERIES["create_buyer"], ()) if role is Role.BUYER else (QUERIES["create_staff"], (role.value,))
        row = await self._run(by, query, uuid4(), name, email, password_hash, email_key(email), *more)
        if row is None:
            raise EmailTaken
        return user_of(row)

    async def credentials(self, email: str) -> tuple[User, str | None] | None:
        """Read an account and its password hash by email."""
        row = await self._database.fetch_row(QUERIES["credentials"], email, email_key(email))
        return None if row is None else (user_of(row), row["password_hash"])

    async def administrators(self) -> Sequence[str]:
        """Read the emails of everybody who is no buyer, the first thousand."""
        return [row["email"] for row in await self._database.fetch(QUERIES["administrators"])]

    async def staff(self) -> Sequence[User]:
        """Read the accounts of everybody who is no buyer, by email, the first thousand."""
        return [user_of(row) for row in await self._database.fetch(QUERIES["staff"])]

    async def account(self, user_id: UUID) -> User | None:
        """Read an account by id."""
        row = await self._database.fetch_row(QUERIES["account"], user_id)
        return None if row is None else user_of(row)

    async def set_password(
        self, user_id: UUID, password_hash: str, *, generation: int | None = None, by: Author | None = None
    ) -> int | None:
        """Replace an account's password hash if the account has this generation; returns the new one, None if not."""
        row = await self._run(by, QUERIES["set_password"], user_id, password_hash, generation)
        return None if row is None else row["generation"]

    async def set_role(self, user_id: UUID, role: Role, *, by: Author | None = None) -> None:
        """Give an account a role."""
        await self._run(by, QUERIES["set_role"], user_id, role.value)

    async def generations(self, user_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Read the generations of accounts, without those that are 0."""
        rows = await self._database.fetch(QUERIES["generations"], user_ids)
        return {row["user_id"]: row["generation"] for row in rows}

    async def raise_generation(
        self, user_id: UUID, *, generation: int | None = None, by: Author | None = None
    ) -> int | None:
        """End the tokens of an account if it has this generation; returns the new generation, None if not."""
        async with authored(self._database, "raise_generation", by) as connection:
            row = await connection.fetchrow(QUERIES["raise_generation"].text, user_id, generation)
            if by is not None and row is not None:
                await note_action(connection, by.action, f"account/{user_id}", old=None, new=dict(row))
        return None if row is None else row["generation"]

    async def note(self, user_id: UUID, by: Author) -> None:
        """Write to the trail what somebody did about an account without changing it."""
        async with authored(self._database, "note_action", by) as connection:
            await note_action(connection, by.action, f"account/{user_id}", old=None, new=None)

    async def _run(self, by: Author | None, query: Query, *arguments: object) -> asyncpg.Record | None:
        if by is None:
            return await self._database.fetch_row(query, *arguments)
        try:
            async with authored(self._database, query.name, by) as connection:
                return await connection.fetchrow(query.text, *arguments)
        except asyncpg.PostgresError as error:
            raise PoisonBatch(str(error), unknown_user=False) from error

    async def revocations(self, *, since_s: float) -> Sequence[tuple[Revocation, float]]:
        """Read the revocations of the last `since_s` seconds, with their age in seconds, oldest first."""
        rows = await self._database.fetch(QUERIES["revocations"], timedelta(seconds=since_s))
        return [(Revocation(user_id=row["user_id"], generation=row["generation"]), row["age_s"]) for row in rows]

    async def create_buyers(self, count: int, *, prefix: str) -> Sequence[UUID]:
        """Create buyers without a password in bulk; a repetition returns the same buyers."""
        await self._database.fetch(QUERIES["create_buyers"], prefix, count)
        return [row["user_id"] for row in await self._database.fetch(QUERIES["buyers"], prefix, count)]


def user_of(row: asyncpg.Record) -> User:
    """Read an account of a row."""
    return User(
        user_id=row["user_id"],
        name=row["name"],
        email=row["email"],
        role=Role(row["role"]),
        created_at=row["created_at"],
        generation=row["generation"],
    )
