"""A cell that products leave or enter: `sql/queries/moves.sql`. The owner of the tables runs these statements."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.cells import QUERIES as CELLS
from flashsale.adapters.postgres.cells import connected, refusals
from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.trail import set_author
from flashsale.domain.cells import home_of_product
from flashsale.domain.money import Money
from flashsale.domain.moves import Arrival, Departure
from flashsale.domain.products import LimitPer, NewProduct, PaymentMode
from flashsale.usecases.move_product import Moving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from uuid import UUID

    import asyncpg

    from flashsale.domain.trail import Author

QUERIES = load("queries/moves.sql")
REPLICATE = load("queries/replication.sql")["replicate"]


@asynccontextmanager
async def open_cell(url: str, name: str, author: Author | None = None) -> AsyncIterator[PostgresMovingCell]:
    """Connect to a cell's database; the trail there names the author.

    Raises:
        NotReady: if it is away, or refuses a statement.
    """
    async with connected(url, name) as connection:
        yield PostgresMovingCell(connection, name, author)


class PostgresMovingCell:
    """Implements `usecases.move_product.MovingCell`. Each COMMIT also waits for what the transaction read."""

    def __init__(self, connection: asyncpg.Connection, name: str, author: Author | None = None) -> None:
        """Work over this connection to a database with a name. A transaction that fails ends with the connection."""
        self._connection = connection
        self._name = name
        self._author = author

    @asynccontextmanager
    async def _transaction(self, *, undo: bool = False) -> AsyncIterator[asyncpg.Connection]:
        with refusals(self._name):
            transaction = self._connection.transaction()
            await transaction.start()
            if self._author is not None:
                await set_author(self._connection, self._author)
            yield self._connection
            await self._connection.execute(REPLICATE.text)
            await (transaction.rollback() if undo else transaction.commit())

    async def number(self) -> int:
        """Return the cell's number."""
        with refusals(self._name):
            return home_of_product(await self._connection.fetchval(CELLS["product_numbers"].text))

    async def moving(self, product_id: int) -> Moving | None:
        """Read a product of this cell."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(QUERIES["moving"].text, product_id)
        return None if row is None else _moving(product_id, row)

    async def leave(self, product_id: int, move_id: UUID, to_cell: int, *, limits_anew: bool) -> str:
        """Let the free units of a product leave."""
        async with self._transaction() as connection:
            return str(await connection.fetchval(QUERIES["leave"].text, product_id, move_id, to_cell, limits_anew))

    async def enter(self, moving: Moving, move_id: UUID, *, rehearse: bool = False) -> int:
        """Create the product that another cell's becomes."""
        terms = moving.terms
        async with self._transaction(undo=rehearse) as connection:
            product_id = await connection.fetchval(
                QUERIES["enter"].text,
                move_id,
                moving.product_id,
                moving.paused,
                terms.name,
                terms.price.minor,
                terms.price.currency,
                terms.allotment,
                terms.payment_mode.value,
                terms.payment_window_s,
                terms.limit_per_buyer,
                terms.limit_per.value,
                terms.cooldown_s,
                terms.refundable_by_buyer,
                terms.starts_at,
                terms.ends_at,
            )
        return int(product_id)

    async def tell(self, product_id: int, move_id: UUID, moved_to: int) -> None:
        """Write what a product became."""
        async with self._transaction() as connection:
            await connection.execute(QUERIES["tell"].text, product_id, moved_to, move_id)

    async def arrivals(self) -> Sequence[Arrival]:
        """List what arrived."""
        with refusals(self._name):
            rows = await self._connection.fetch(QUERIES["arrivals"].text)
        return [Arrival(**row) for row in rows]

    async def departures(self) -> Sequence[Departure]:
        """List what left."""
        with refusals(self._name):
            rows = await self._connection.fetch(QUERIES["departures"].text)
        return [Departure(**row) for row in rows]


async def read_moves(urls: Mapping[str, str]) -> tuple[list[Departure], list[Arrival], set[int]]:
    """Read what left and what arrived in cells, by name and URL, and the cells' numbers.

    Nothing arrives while the departures are read: else they are read again.
    """
    async with AsyncExitStack() as opened:
        found = [await opened.enter_async_context(open_cell(url, name)) for name, url in urls.items()]
        numbers = {await cell.number() for cell in found}
        arrivals = await _arrivals(found)
        while True:
            departures = [one for cell in found for one in await cell.departures()]
            before, arrivals = arrivals, await _arrivals(found)
            if before == arrivals:
                return departures, arrivals, numbers


async def _arrivals(found: Sequence[PostgresMovingCell]) -> list[Arrival]:
    return [one for cell in found for one in await cell.arrivals()]


def _moving(product_id: int, row: asyncpg.Record) -> Moving:
    return Moving(
        product_id=product_id,
        terms=NewProduct(
            name=row["name"],
            price=Money(minor=row["price_minor"], currency=row["currency"]),
            allotment=row["units"],
            payment_mode=PaymentMode(row["payment_mode"]),
            payment_window_s=row["payment_window_s"],
            limit_per_buyer=row["limit_per_buyer"],
            limit_per=LimitPer(row["limit_per"]),
            cooldown_s=row["cooldown_s"],
            refundable_by_buyer=row["refundable_by_buyer"],
            starts_at=row["starts_at"],
            ends_at=row["ends_at"],
        ),
        paused=row["paused"],
        move_id=row["move_id"],
        to_cell=row["to_cell"],
        moved_to=row["moved_to"],
    )
