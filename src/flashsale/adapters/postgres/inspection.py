"""Reads what `flashsale doctor` wants to know of a Postgres server: `sql/queries/doctor.sql`."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import asyncpg

from flashsale.adapters.postgres.failures import AWAY, reason_of
from flashsale.adapters.postgres.queries import load, sql_root
from flashsale.adapters.postgres.schema import difference, expected, read_schema
from flashsale.domain.checkups import PostgresFacts, Right, RoleFacts, Unreached

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/doctor.sql")

ROLES = ("flashsale_api", "flashsale_worker")
"""The database users of the processes: `sql/grants.sql`."""

_TABLE = re.compile(r"(?m)^GRANT (SELECT|INSERT|UPDATE|DELETE)(?: \([^)]*\))? ON (\w+) TO (\w+);")
_FUNCTIONS = re.compile(r"(?ms)^GRANT EXECUTE ON FUNCTION\n(.*?)^TO (\w+);")
_FUNCTION = re.compile(r"(?m)^\s+(\w+)\(")


def granted(text: str) -> set[Right]:
    """Return the rights that a text like `sql/grants.sql` grants; those on columns count for their table."""
    rights = {Right(role, privilege, table) for privilege, table, role in _TABLE.findall(text)}
    for functions, role in _FUNCTIONS.findall(text):
        rights |= {Right(role, "EXECUTE", name) for name in _FUNCTION.findall(functions)}
    return rights


async def inspect_postgres(database: Database) -> PostgresFacts | Unreached:
    """Read the facts over one connection of its own."""
    connection: asyncpg.Connection[asyncpg.Record]
    try:
        try:
            connection = await database.connect(suffix="-doctor")
        except asyncpg.TargetServerAttributeNotMatched:
            # No server takes writes; any of them can tell the rest.
            arguments = database.connect_arguments(suffix="-doctor")
            connection = await asyncpg.connect(**{**arguments, "target_session_attrs": "any"})
    except (*AWAY, asyncpg.PostgresError) as error:
        return Unreached(problem=reason_of(error) or f"{type(error).__name__}: {error}".partition("\n")[0])
    try:
        return await _read(connection)
    except (*AWAY, asyncpg.PostgresError) as error:
        return Unreached(problem=f"{type(error).__name__}: {error}".partition("\n")[0])
    finally:
        connection.terminate()


async def automatic_products(database: Database) -> Sequence[int]:
    """Read the products that are sold, now or later, and whose orders a payment worker charges.

    Raises:
        Unavailable: if Postgres is away.
    """
    return [row["product_id"] for row in await database.fetch(QUERIES["automatic_products"])]


async def _read(connection: asyncpg.Connection[asyncpg.Record]) -> PostgresFacts:
    began_s = time.time()
    server = await connection.fetchrow(QUERIES["read_server"].text)
    if server is None:
        raise AssertionError
    middle_s = (began_s + time.time()) / 2
    values = dict(server)
    now = values.pop("now")
    roles = await connection.fetch(QUERIES["read_roles"].text, ROLES)
    problem = difference(expected(), await read_schema(lambda query: connection.fetch(query.text)))
    rights = {Right(*row) for row in await connection.fetch(QUERIES["read_rights"].text, ROLES)}
    wanted = granted((sql_root() / "grants.sql").read_text())
    return PostgresFacts(
        **values,
        clock_ahead_s=now.timestamp() - middle_s,
        schema_problem=problem,
        roles=[RoleFacts(**dict(row)) for row in roles],
        missing_rights=_sorted(wanted - rights),
        excess_rights=_sorted(rights - wanted),
    )


def _sorted(rights: set[Right]) -> Sequence[Right]:
    return sorted(rights)
