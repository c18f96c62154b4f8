"""New passwords by e-mail: `sql/queries/resets.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.users import user_of
from flashsale.domain.emails import email_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.users import User

QUERIES = load("queries/resets.sql")


class PostgresResets:
    """Implements `usecases.resets.ResetRequests` and `usecases.send_resets.DueResets`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def ask(self, email: str, *, pause_s: float) -> None:
        """Note that an account asks for a new password, unless it asked within `pause_s`, or there is none."""
        await self._database.fetch(QUERIES["ask_reset"], email, email_key(email), timedelta(seconds=pause_s))

    async def account(self, digest: bytes) -> User | None:
        """Return the account of a code that may still be used."""
        row = await self._database.fetch_row(QUERIES["reset_account"], digest)
        return None if row is None else user_of(row)

    async def use(self, digest: bytes, password_hash: str) -> tuple[UUID, int] | None:
        """Use a code up and replace the password hash; returns the account's id and its new generation."""
        row = await self._database.fetch_row(QUERIES["use_code"], digest, password_hash)
        return None if row is None else (row["user_id"], row["generation"])

    async def claim(self, *, limit: int, lease_s: float) -> Sequence[tuple[UUID, str]]:
        """Begin a try of requests whose e-mail is due: account and address."""
        rows = await self._database.fetch(QUERIES["claim_resets"], limit, timedelta(seconds=lease_s))
        return [(row["user_id"], row["email"]) for row in rows]

    async def keep_code(self, user_id: UUID, digest: bytes, *, ttl_s: float) -> None:
        """Keep the digest of the code that is about to be sent; an older code ends."""
        await self._database.fetch(QUERIES["keep_code"], user_id, digest, timedelta(seconds=ttl_s))

    async def end(self, user_id: UUID, digest: bytes) -> None:
        """Send no more e-mails about this code."""
        await self._database.fetch(QUERIES["end_reset"], user_id, digest)

    async def forget(self, *, older_s: float) -> None:
        """Forget old requests."""
        await self._database.fetch(QUERIES["forget_resets"], timedelta(seconds=older_s))
