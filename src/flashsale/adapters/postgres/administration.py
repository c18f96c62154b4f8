"""Administrators' requests under an idempotency key: `sql/queries/administration.sql`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.trail import authored, note_action, set_author
from flashsale.domain.errors import KeyReused
from flashsale.domain.requests import AdminRequest, KeptAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import asyncpg

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/administration.sql")


class Change:
    """A change by an administrator, while its transaction is open."""

    def __init__(
        self, connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], request: AdminRequest | None
    ) -> None:
        """Keep the connection; without a `request` there is no key, and no author for the trail."""
        self.connection = connection
        self._request = request
        self.done: int | None = None
        """The product that the same request changed before: nothing is to be done then."""
        self.repeated = False
        """Whether the same request was carried out before."""

    async def begin(self) -> None:
        """Name the author of what follows, and claim the key, if there is one.

        Raises:
            KeyReused: if the key belongs to another request.
        """
        if self._request is None:
            return
        await set_author(self.connection, self._request.author)
        user_id, key, fingerprint = self._request[:3]
        if key is None:
            return
        if await self.connection.fetchrow(QUERIES["claim_key"].text, user_id, key, fingerprint) is not None:
            return
        # A new statement, because the snapshot of the one that waited is older than the row that it waited for.
        row = await self.connection.fetchrow(QUERIES["kept"].text, user_id, key)
        if row is None or row["fingerprint"] != fingerprint:
            raise KeyReused
        self.done = row["product_id"]
        self.repeated = True

    async def concerns(self, product_id: int) -> None:
        """Record under the key which product was changed."""
        if self._request is not None and self._request.key is not None:
            await self.connection.execute(
                QUERIES["set_product"].text, self._request.user_id, self._request.key, product_id
            )

    async def note(self, what: str, *, old: Mapping[str, object] | None, new: Mapping[str, object] | None) -> None:
        """Write to the trail what an administrator did to an order; triggers write what changed of a product.

        `what`: `order/<id>`.
        """
        if self._request is not None:
            await note_action(self.connection, self._request.action, what, old=old, new=new)


@asynccontextmanager
async def change(database: Database, what: str, request: AdminRequest | None) -> AsyncIterator[Change]:
    """Open a transaction for a change. An exception in the block rolls back both the change and its key.

    Raises:
        KeyReused: if the key belongs to another request.
        Unavailable: if Postgres is away; a repetition of the request finds out whether the change was made.
    """
    async with authored(database, what, None) as connection:
        changing = Change(connection, request)
        await changing.begin()
        yield changing


class PostgresAdminAnswers:
    """Implements `ports.AdminAnswers`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def kept(self, request: AdminRequest) -> KeptAnswer | None:
        """Return the answer that is stored under a key; None if there is none."""
        if request.key is None:
            return None
        row = await self._database.fetch_row(QUERIES["kept"], request.user_id, request.key)
        if row is not None and row["fingerprint"] != request.fingerprint:
            raise KeyReused
        return None if row is None or row["status"] is None else _answer(row)

    async def keep(self, request: AdminRequest, answer: KeptAnswer) -> KeptAnswer:
        """Store an answer, unless the key has one; returns the answer that is stored."""
        if request.key is None:
            return answer
        row = await self._database.fetch_row(QUERIES["keep"], request.user_id, request.key, *answer)
        return answer if row is None else _answer(row)


def _answer(row: asyncpg.Record) -> KeptAnswer:
    return KeptAnswer(status=row["status"], tag=row["tag"], body=row["body"])
