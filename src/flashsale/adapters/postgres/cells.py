"""A cell's own part of its database: the numbers of its products, and the accounts that it copies from cell 0."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from flashsale.adapters.postgres import queries
from flashsale.domain.cells import ACCOUNTS, first_product, home_of_product, last_product
from flashsale.domain.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from asyncpg import Record

    from flashsale.adapters.postgres.database import Database
    from flashsale.adapters.postgres.queries import Query

QUERIES = queries.load("queries/cells.sql")

PUBLICATION = "flashsale_accounts"
POLL_S = 0.1


async def check_cell(database: Database, number: int) -> None:
    """Compare the numbers that this database gives to products with a process' cell. A server that is down is no error.

    Raises:
        NotReady: if they are another cell's.
    """
    try:
        connection = await database.connect(suffix="-cell")
        try:
            wrong = await wrong_cell(lambda query: connection.fetch(query.text), number)
        finally:
            connection.terminate()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        return
    if wrong is not None:
        raise NotReady(wrong)


async def wrong_cell(fetch: Callable[[Query], Awaitable[list[Record]]], number: int) -> str | None:
    """Say that a database gives the numbers of another cell to products, and what to do; None if it is this cell's.

    `fetch` runs a statement.
    """
    [row] = await fetch(QUERIES["product_numbers"])
    home = home_of_product(row["first_id"])
    if home == number:
        return None
    return (
        f"The database has the product ids of cell {home}, and this is cell {number}: "
        "correct FLASHSALE_CELL__NUMBER, or begin the cell's new database with `flashsale cells begin`."
    )


async def begin(url: str, number: int) -> None:
    """Let an empty database number its products as the cell's; a repetition changes nothing.

    Raises:
        NotReady: if it has products of another cell.
    """
    async with _connected(url, "this cell's database") as connection, connection.transaction():
        # No product is created meanwhile.
        await connection.execute("LOCK TABLE products IN SHARE ROW EXCLUSIVE MODE")
        [row] = await connection.fetch(QUERIES["product_numbers"].text)
        first, last = first_product(number), last_product(number)
        if row["first_id"] == first:
            return
        if row["has_products"]:
            raise NotReady(
                f"The database has products of cell {home_of_product(row['first_id'])}; a cell begins without."
            )
        await connection.execute(
            "ALTER TABLE products ALTER COLUMN product_id "
            f"SET MINVALUE {first} SET MAXVALUE {last} SET START {first} RESTART WITH {first}"
        )


async def join(url: str, accounts_url: str, number: int) -> None:
    """Let Postgres copy the accounts of cell 0, now and from now on; returns once those of now have arrived.

    A repetition, also after a crash between two steps, ends in the same state.

    Raises:
        NotReady: if a server is away, cell 0's cannot be copied from or kept nothing more for this cell, or this
            database has accounts of its own.
    """
    name = f"flashsale_cell_{number}"
    async with (
        _connected(url, "this cell's database") as here,
        _connected(accounts_url, "cell 0's database") as there,
    ):
        known = await here.fetchrow(QUERIES["subscription"].text, name)
        if known is not None:
            if not (await _copied_from(there, name))["goes_on"]:
                raise NotReady(
                    f"The copy has stopped: cell 0 has no replication slot {name} any more, or it lost what this cell "
                    "has not read. Accounts that changed since do not arrive (docs/how-to/several-cells.md)."
                )
        else:
            if await here.fetchval(QUERIES["any_account"].text):
                raise NotReady("This database has accounts of its own; a cell begins without.")
            await _publish(there, name)
            await here.execute(
                f"CREATE SUBSCRIPTION {name} CONNECTION {_literal(accounts_url)} PUBLICATION {PUBLICATION}"
            )
        while not await here.fetchval(QUERIES["subscription"].text, name):  # noqa: ASYNC110 - Postgres tells nobody
            await asyncio.sleep(POLL_S)
        await here.execute(QUERIES["note_earlier_revocations"].text)


async def _copied_from(there: asyncpg.Connection, slot: str) -> asyncpg.Record:
    found = await there.fetchrow(QUERIES["published"].text, PUBLICATION, slot)
    assert found is not None  # noqa: S101 - for the type checker: one row always
    return found


async def _publish(there: asyncpg.Connection, slot: str) -> None:
    found = await _copied_from(there, slot)
    if not found["logical"]:
        raise NotReady("Postgres of cell 0 cannot be copied from: set its wal_level to logical, and restart it.")
    if home_of_product(await there.fetchval(QUERIES["product_numbers"].text)) != ACCOUNTS:
        raise NotReady("FLASHSALE_CELL__ACCOUNTS_URL does not lead to cell 0.")
    if not found["published"]:
        await there.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE users")
    if found["slot"]:
        # A command that was killed left it, and no subscription reads it.
        await there.execute(f"SELECT pg_drop_replication_slot({_literal(slot)})")


@asynccontextmanager
async def _connected(url: str, what: str) -> AsyncIterator[asyncpg.Connection]:
    try:
        connection = await asyncpg.connect(url, timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise NotReady(f"No connection to {what}: {error}") from error
    try:
        yield connection
    except asyncpg.PostgresError as error:
        raise NotReady(f"Postgres refused, at {what}: {error}") from error
    finally:
        await connection.close()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
