"""The rows of a sale that are archived: `sql/queries/archive.sql`. The owner of the tables runs these statements."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import asyncpg

from flashsale.adapters.postgres.failures import AWAY, OTHER_SCHEMA, REPEATED
from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.trail import note_action, set_author
from flashsale.domain.archives import Total
from flashsale.domain.orders import OrderStatus
from flashsale.usecases.archive_sale import Kept, NotArchived, Rows, Sale, digest_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flashsale.adapters.postgres.database import Database
    from flashsale.adapters.postgres.queries import Query
    from flashsale.domain.trail import Author

    Pooled = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Isolation = Literal["repeatable_read", "read_committed"]

QUERIES = load("queries/archive.sql")
REVISION = load("queries/schema.sql")["read_revision"]

TRIES = 5
"""How often a part is deleted that another transaction kept from it, such as the deletion of old messages."""


class PostgresSaleRows:
    """Implements `usecases.archive_sale.SaleRows`."""

    def __init__(self, database: Database, *, disputes_over: bool = False) -> None:
        """Work through this pool; with `disputes_over` a disputed charge keeps no sale in the tables."""
        self._database = database
        self._disputes_over = disputes_over

    async def sale(self, product_id: int) -> Sale | None:
        """Read a product and what is known of its archive."""
        row = await self._database.fetch_row(QUERIES["sale"], product_id)
        if row is None:
            return None
        kept = None
        if row["place"] is not None:
            kept = Kept(
                place=row["place"],
                digests=row["digests"],
                orders=row["archived"],
                begun_at=row["begun_at"],
                ended_at=row["ended_at"],
            )
        return Sale(
            name=row["name"],
            archived_at=row["archived_at"],
            orders=row["orders"],
            moved_at=row["moved_at"],
            now=row["now"],
            kept=kept,
        )

    async def due(self) -> Sequence[int]:
        """Read the archived products whose rows are in the tables still."""
        return [row["product_id"] for row in await self._database.fetch(QUERIES["due_sales"])]

    async def open_matters(self, product_id: int) -> Sequence[tuple[str, int]]:
        """Count what is open, by kind."""
        rows = await self._database.fetch(QUERIES["open_matters"], product_id, self._disputes_over)
        return [(row["what"], row["number"]) for row in rows]

    async def next_orders(self, product_id: int, after: UUID, limit: int) -> Sequence[UUID]:
        """Read the ids of final orders after an id, in order."""
        rows = await self._database.fetch(QUERIES["next_orders"], product_id, after, limit)
        return [UUID(bytes=row["order_id"].bytes) for row in rows]

    async def rows(self, order_ids: Sequence[UUID]) -> Rows:
        """Read all rows of orders, on one snapshot."""
        async with self._transaction(reads=True) as connection:
            return Rows(
                orders=await _documents(connection, QUERIES["documents"], order_ids),
                messages=await _documents(connection, QUERIES["messages"], order_ids),
            )

    async def product(self, product_id: int) -> str:
        """Read the rows of a product that belong to no order, as one JSON document."""
        async with self._transaction(reads=True) as connection:
            document = await connection.fetchval(QUERIES["product"].text, product_id)
        return str(document)

    async def totals(self, product_id: int) -> Sequence[Total]:
        """Sum the orders, those in files among them."""
        return [
            Total(**{**dict(row), "status": OrderStatus(row["status"])})
            for row in await self._database.fetch(QUERIES["sums"], product_id)
        ]

    async def schema_revision(self) -> str:
        """Read the newest migration."""
        row = await self._database.fetch_row(REVISION)
        return "" if row is None else str(row[0])

    async def begin(self, product_id: int, place: str, orders: int, author: Author) -> None:
        """Note where the files are, before the first rows leave; once."""
        async with self._transaction(isolation="read_committed") as connection:
            await set_author(connection, author)
            if await connection.fetchval(QUERIES["begin"].text, product_id, place, orders) is not None:
                await note_action(
                    connection, author.action, f"product/{product_id}", old=None, new={"place": place, "orders": orders}
                )

    async def remove(
        self, product_id: int, number: int, order_ids: Sequence[UUID], digest: bytes, messages: bytes
    ) -> bool:
        """Delete the orders of a part with all of their rows, and note the digest; see the port.

        One snapshot: a row that somebody changes meanwhile is a lost conflict, not a row that is deleted unread.
        """
        for _ in range(TRIES):
            try:
                async with self._transaction() as connection:
                    if await connection.fetchval(QUERIES["unsettled"].text, order_ids, self._disputes_over):
                        return False
                    return await _remove(connection, product_id, number, order_ids, digest, messages)
            except (*REPEATED, asyncpg.ForeignKeyViolationError):
                continue
            except _OtherRows:
                return False
        return False

    async def forget_rest(self, product_id: int, limit: int) -> int:
        """Delete rows of a product that belong to no order, at most `limit` of a kind; returns how many."""
        found = 0
        for query in (QUERIES["forget_rest"], QUERIES["forget_free_units"]):
            row = await self._database.fetch_row(query, product_id, limit)
            found += 0 if row is None else row["rows"]
        return found

    async def end(self, product_id: int) -> bool:
        """Note that the last row is gone; False if an order is left."""
        return await self._database.fetch_row(QUERIES["end"], product_id) is not None

    @asynccontextmanager
    async def _transaction(
        self, *, reads: bool = False, isolation: Isolation = "repeatable_read"
    ) -> AsyncIterator[Pooled]:
        """Open a transaction, usually with one snapshot, in which instants are written in UTC."""
        try:
            async with (
                self._database.connection(reads=reads) as connection,
                connection.transaction(isolation=isolation, readonly=reads),
            ):
                await connection.execute(QUERIES["read_as_utc"].text)
                yield connection
        except asyncpg.InsufficientPrivilegeError as error:
            raise NotArchived(
                f"The owner of the tables archives: set FLASHSALE_POSTGRES__OWNER_URL ({error})."
            ) from error
        except (*AWAY, *OTHER_SCHEMA) as error:
            raise self._database.away("archive", error) from error


class _OtherRows(Exception):
    """The rows are not those of the digest, or something of them is open."""


async def _documents(connection: Pooled, query: Query, order_ids: Sequence[UUID]) -> list[str]:
    return [row["document"] for row in await connection.fetch(query.text, order_ids)]


async def _remove(
    connection: Pooled, product_id: int, number: int, order_ids: Sequence[UUID], digest: bytes, messages: bytes
) -> bool:
    if await connection.fetchval(QUERIES["claim"].text, product_id, number, digest) is None:
        raise _OtherRows
    if digest_of(await _documents(connection, QUERIES["documents"], order_ids)) != digest:
        raise _OtherRows
    if digest_of(await _documents(connection, QUERIES["messages"], order_ids)) != messages:
        raise _OtherRows
    await connection.execute(QUERIES["keep_orders"].text, order_ids)
    await connection.execute(QUERIES["keep_money"].text, order_ids)
    buyers = await connection.fetch(QUERIES["remove_orders"].text, order_ids)
    users, held = [row["user_id"] for row in buyers], [row["held"] for row in buyers]
    await connection.execute(QUERIES["forget_buyers"].text, product_id, users)
    await connection.execute(QUERIES["count_less"].text, product_id, users, held)
    return True
