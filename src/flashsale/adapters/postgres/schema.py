"""Check that the database has the schema that this release was made for.

`sql/schema.txt` holds the newest revision and a digest of every object after it; `python tests/schema.py` writes it
from the migrations. Each column, constraint and function is a separate object, so a difference has a name.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import asyncpg
import structlog

from flashsale.adapters.postgres import queries
from flashsale.domain.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from asyncpg import Record

    from flashsale.adapters.postgres.database import Database
    from flashsale.adapters.postgres.queries import Query

log = structlog.get_logger(__name__)

QUERIES = queries.load("queries/schema.sql")

USED_BY_OLDER = ("column", "function", "enum")
"""Kinds of objects that a newer release may not change, because its processes run with older ones during a roll.
Constraints, indexes and triggers may change."""

ADDED_IS_DRIFT = ("constraint", "trigger")
"""Kinds of objects that may not be added by hand, because they change the effect of a statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The schema that a release was made for."""

    revision: str
    objects: Mapping[str, str]
    """Digest by kind and name, such as `column orders.status`."""


@cache
def expected() -> Expected:
    """Read `sql/schema.txt`."""
    return parse((queries.sql_root() / "schema.txt").read_text())


def parse(text: str) -> Expected:
    """Parse a text like `sql/schema.txt`: `revision NNNN`, then a digest and a name on each line."""
    first, *rest = text.splitlines()
    pairs = [line.split(" ", 1) for line in rest]
    return Expected(revision=first.removeprefix("revision "), objects={name: digest for digest, name in pairs})


async def read_schema(fetch: Callable[[Query], Awaitable[list[Record]]]) -> Expected | None:
    """Return the schema of a database; None before the first migration. `fetch` runs a statement."""
    rows = await fetch(QUERIES["read_schema"])
    if not any(row["name"] == "table orders" for row in rows):
        return None
    (newest,) = await fetch(QUERIES["read_revision"])
    return Expected(revision=newest["version_num"], objects={row["name"]: row["digest"] for row in rows})


async def fingerprint(url: str) -> tuple[str, str] | None:
    """Return the revision of a database and the SHA-256 of all its definitions; None before the first migration."""
    # The URL may lead through a pooler.
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        found = await read_schema(lambda query: connection.fetch(query.text))
    finally:
        await connection.close()
    if found is None:
        return None
    text = "\n".join(f"{digest} {name}" for name, digest in sorted(found.objects.items()))
    return found.revision, hashlib.sha256(text.encode()).hexdigest()


async def check_schema(database: Database) -> None:
    """Compare the database with this release, over a separate connection. A server that is down is no error here.

    Raises:
        NotReady: if the schema does not fit; says which object differs, and what to do.
    """
    try:
        connection = await database.connect(suffix="-schema")
        try:
            found = await read_schema(lambda query: connection.fetch(query.text))
        finally:
            connection.terminate()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            # Postgres' answer to the cancelled statement came first; the operator who stops this process does not wait.
            raise asyncio.CancelledError from error
        log.warning("schema.unread", error=type(error).__name__)
        return
    if (problem := difference(expected(), found)) is not None:
        raise NotReady(problem)


def difference(wanted: Expected, found: Expected | None) -> str | None:
    """Say how a database differs from the schema of a release, and what to do; None if it fits.

    Revisions are numbers of four digits, so a newer one is greater.
    """
    if found is None:
        return "The database is not migrated: run `alembic upgrade head`."
    if found.revision < wanted.revision:
        return (
            f"The database is at revision {found.revision} and this release needs {wanted.revision}: "
            "run `alembic upgrade head`."
        )
    changed = changed_objects(wanted, found)
    if not changed:
        return None
    what = f"{changed[0]} (and {len(changed) - 1} more)" if len(changed) > 1 else changed[0]
    if found.revision > wanted.revision:
        return (
            f"The database is at revision {found.revision}, newer than this release's {wanted.revision}, and {what}: "
            "deploy the newer release."
        )
    return (
        f"The schema is not that of revision {wanted.revision}: {what}. Put back the definition that "
        "sql/functions or migrations/versions has, or restore a backup."
    )


def changed_objects(wanted: Expected, found: Expected) -> list[str]:
    """Name the objects that differ in a database, each with its fault."""
    newer = found.revision > wanted.revision
    changed = [
        f"{name} is {'different' if name in found.objects else 'missing'}"
        for name, digest in wanted.objects.items()
        if found.objects.get(name) != digest and (not newer or name.startswith(USED_BY_OLDER))
    ]
    if not newer:
        strange = sorted(found.objects.keys() - wanted.objects.keys())
        changed += [f"{name} is not of this release" for name in strange if name.startswith(ADDED_IS_DRIFT)]
    return changed
