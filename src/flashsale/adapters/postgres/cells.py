"""A cell's own part of its database: the numbers of its products, and the accounts that it copies from cell 0."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import asyncpg

from flashsale.adapters.postgres import queries
from flashsale.domain.cells import ACCOUNTS, first_product, home_of_product, last_product
from flashsale.domain.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from asyncpg import Record

    from flashsale.adapters.postgres.database import Database
    from flashsale.adapters.postgres.queries import Query

QUERIES = queries.load("queries/cells.sql")

HERE = "this cell's database"
PUBLICATION = "flashsale_accounts"
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
POLL_S = 0.1
FAILURES_MAX = 3
"""Failed copies after which a command stops waiting; Postgres tries again every `wal_retrieve_retry_interval`, 5 s."""
READER_ENDS_S = 15.0
"""How long the process of cell 0 that sent a copy may take to end, after the copy was given up."""


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
    except FAILURES:
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
    async with connected(url, HERE) as connection, connection.transaction():
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


async def join(
    url: str, accounts_url: str, number: int, *, again: bool = False, show: Callable[[int], None] = lambda _: None
) -> None:
    """Let Postgres copy the accounts of cell 0, now and from now on; returns once those of now have arrived.

    `show` is called with the number of accounts that have been copied so far.

    `again`: give up the copy that there is, and copy every account once more. Accounts that are here become as cell 0
    has them, and none is removed. A repetition, also after a crash between two steps, ends in the same state.

    Raises:
        NotReady: if a server is away, cell 0's cannot be copied from or kept nothing more for this cell, this
            database is another cell's or has accounts of its own, or Postgres fails to copy again and again.
    """
    name = f"flashsale_cell_{number}"
    async with (
        connected(url, HERE) as here,
        connected(accounts_url, "cell 0's database") as there,
    ):
        known = await here.fetchrow(QUERIES["subscription"].text, name)
        if again:
            # Copies replace what is known of accounts, so no other database takes them.
            if (wrong := await wrong_cell(lambda query: here.fetch(query.text), number)) is not None:
                raise NotReady(wrong)
            await _check_source(there)
            if known is not None:
                with refusals(HERE):
                    await _unsubscribe(here, name)
        elif known is not None and not (known["reads"] and (await _copied_from(there, name))["goes_on"]):
            raise NotReady(
                f"The copy has stopped: cell 0 has no replication slot {name} any more, or it lost what this cell "
                "has not read, or this cell does not read it. Copy the accounts once more with "
                "`flashsale cells join --again`."
            )
        if again or known is None:
            if not again and await here.fetchval(QUERIES["any_account"].text):
                raise NotReady(
                    "This database has accounts of its own; a cell begins without. If they are copies of cell 0's, "
                    "copy the accounts once more with `flashsale cells join --again`."
                )
            await _publish(there, name)
            with refusals(HERE):
                await here.execute(
                    f"CREATE SUBSCRIPTION {name} CONNECTION {_literal(accounts_url)} PUBLICATION {PUBLICATION}"
                )
        await _until_copied(here, name, show)
        await here.execute(QUERIES["note_earlier_revocations"].text)


async def _until_copied(here: asyncpg.Connection, name: str, show: Callable[[int], None]) -> None:
    earlier: int | None = None
    # Postgres tells nobody.
    while not await here.fetchval(QUERIES["subscription"].text, name):
        found = await here.fetchrow(QUERIES["first_copy"].text, name)
        if found is not None:
            earlier = found["failures"] if earlier is None else earlier
            if found["failures"] - earlier >= FAILURES_MAX:
                raise NotReady(
                    f"Postgres failed {FAILURES_MAX} times to copy the accounts, and tries again; the log of this "
                    "cell's Postgres says why. Correct that, and run `flashsale cells join` again, which waits."
                )
            show(int(found["copied"]))
        await asyncio.sleep(POLL_S)


async def _unsubscribe(here: asyncpg.Connection, name: str) -> None:
    """Give up this cell's copy, without a word to cell 0: the slot there may be gone, and so may the server."""
    await here.execute(f"ALTER SUBSCRIPTION {name} DISABLE")
    await here.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
    await here.execute(f"DROP SUBSCRIPTION {name}")


async def _check_source(there: asyncpg.Connection) -> None:
    if not await there.fetchval(QUERIES["can_be_copied"].text):
        raise NotReady("Postgres of cell 0 cannot be copied from: set its wal_level to logical, and restart it.")
    if home_of_product(await there.fetchval(QUERIES["product_numbers"].text)) != ACCOUNTS:
        raise NotReady("FLASHSALE_CELL__ACCOUNTS_URL does not lead to cell 0.")


async def _copied_from(there: asyncpg.Connection, slot: str) -> asyncpg.Record:
    found = await there.fetchrow(QUERIES["published"].text, PUBLICATION, slot)
    assert found is not None  # noqa: S101 - for the type checker: one row always
    return found


async def _publish(there: asyncpg.Connection, slot: str) -> None:
    await _check_source(there)
    if not (await _copied_from(there, slot))["published"]:
        await there.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE users")
    # A command that was killed left the slot, or the copy that was given up: its reader ends in a moment.
    for _ in range(round(READER_ENDS_S / POLL_S)):
        found = (await _copied_from(there, slot))["slot"]
        if found is None:
            return
        if found == "unread":
            await there.execute(f"SELECT pg_drop_replication_slot({_literal(slot)})")
        else:
            await asyncio.sleep(POLL_S)
    raise NotReady(f"Another database copies by the replication slot {slot} of cell 0: each cell has its own number.")


@asynccontextmanager
async def connected(url: str, what: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to a cell's database.

    Raises:
        NotReady: if it is away, or refuses what the block asks of it.
    """
    try:
        connection = await asyncpg.connect(url, timeout=10)
    except FAILURES as error:
        raise NotReady(f"No connection to {what}: {error}") from error
    try:
        with refusals(what):
            yield connection
    finally:
        await connection.close()


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Name the database whose answer, or missing answer, ends the block; of two that are open, only the block knows.

    Raises:
        NotReady: if it refuses a statement, or is away.
    """
    try:
        yield
    except FAILURES as error:
        raise NotReady(f"Postgres refused, at {what}: {error}") from error


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
