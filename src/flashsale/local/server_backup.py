"""Backup and restore of a database on any server, by its URL; with the simulator's ledger, if there is one.

A restore loads a database of its own and gives it the name at the end, so that until then, and after a failure, the
old database is as it was.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import asyncpg

from flashsale.local.archive import DUMP, LEDGER, Schema, now, pack, unpack
from flashsale.local.backup import AFTER, Restored, check_schema, settle_ledger, whole_lines
from flashsale.local.children import ChildFailed
from flashsale.local.dumps import database_of, dump, load, server_version

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from flashsale.domain.ledgers import Charged, Split
    from flashsale.local.backup import SchemaOf

MAINTENANCE = "postgres"
"""The database in which others are created and renamed."""

RESTORING, REPLACED = "_restoring", "_replaced"
"""What is added to the names of the database that is loaded, and of the one that it replaces."""

TABLES = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"


async def backup_server(url: str, file: Path, *, ledger: Path | None, schema_of: SchemaOf) -> str:
    """Write a backup of the database, which may be in use; returns a sentence about the backup.

    Raises:
        ChildFailed: if there is nothing to back up, `file` exists, or a part fails.
        MissingBinary: if there is no `pg_dump`.
    """
    if file.exists():
        raise ChildFailed(f"{file} exists: name another file.")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".flashsale-backup-") as made:
        folder = Path(made)
        made_at = now()
        await _reachable(url)
        found = await schema_of(url)
        if found is None:
            raise ChildFailed(f"The database {database_of(url)} is not migrated: there is nothing to back up.")
        await dump(url, folder / DUMP)
        parts = [DUMP]
        if ledger is not None:
            (folder / LEDGER).write_bytes(whole_lines(ledger))
            parts.append(LEDGER)
        schema = Schema(revision=found[0], digest=found[1])
        pack(file, folder, parts, made_at=made_at, postgres=await server_version(url), schema=schema)
    return f"{file}: the database {database_of(url)} as of {made_at}, {file.stat().st_size:,} bytes; it holds secrets"


async def restore_server(
    url: str,
    file: Path,
    *,
    overwrite: str | None,
    ledger: Path | None,
    schema_of: SchemaOf,
    revisions_to: str,
    split: Callable[[Path, Container[str]], Split],
) -> Restored:
    """Restore a backup as the database that the URL names, and return what was charged after the backup.

    `overwrite`: the name of the database, which permits to replace it. The gateway's ledger is `ledger` or else the
    ledger of the backup, if it has one; what a restored system needs of it is written to the folder of `file`.

    Raises:
        ChildFailed: if the database holds tables and `overwrite` does not name it; if it is in use; if a part fails.
        MissingBinary: if there is no `pg_restore`.
    """
    name = database_of(url)
    living = await _permitted(url, name, overwrite)
    with tempfile.TemporaryDirectory(prefix="flashsale-restore-") as made:
        folder = Path(made)
        manifest = unpack(file, folder, revisions_to=revisions_to)
        if ledger is not None:
            (folder / LEDGER).write_bytes(whole_lines(ledger))
        new = f"{name}{RESTORING}"
        await _administer(url, f"DROP DATABASE IF EXISTS {_quoted(new)}", f"CREATE DATABASE {_quoted(new)}")
        try:
            place = urlsplit(url)._replace(path="/" + quote(new)).geturl()
            await load(place, folder / DUMP)
            await check_schema(place, file, manifest, schema_of)
            charged: Sequence[Charged] = ()
            unsettled: Sequence[str] = ()
            if (folder / LEDGER).exists():
                charged, unsettled = await settle_ledger(place, folder, split)
                for part in (LEDGER, AFTER):
                    (file.parent / f"{file.name}.{part}").write_bytes((folder / part).read_bytes())
            await _put_in_place(url, name, living=living)
        except BaseException:
            await _administer(url, f"DROP DATABASE IF EXISTS {_quoted(new)}")
            raise
    return Restored(made_at=manifest.made_at, charged=charged, unsettled=unsettled)


async def _permitted(url: str, name: str, overwrite: str | None) -> bool:
    """Say whether there is a database to replace, and refuse to unless the caller names it and nobody uses it."""
    if overwrite not in {None, name}:
        raise ChildFailed(f"--overwrite names the database {overwrite}, and the one of the URL is {name}.")
    try:
        connection = await asyncpg.connect(url, timeout=10)
    except asyncpg.InvalidCatalogNameError:
        return False
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise ChildFailed(_refused(url, error)) from None
    try:
        tables, sessions = await connection.fetchval(TABLES), await connection.fetchval(SESSIONS, name)
    finally:
        await connection.close()
    if tables and overwrite is None:
        raise ChildFailed(
            f"The database {name} holds data ({tables} tables): `--overwrite {name}` deletes the database of this name."
        )
    if sessions:
        raise ChildFailed(f"{sessions} sessions use the database {name}: stop the processes first.")
    return True


async def _put_in_place(url: str, name: str, *, living: bool) -> None:
    new, old = _quoted(f"{name}{RESTORING}"), _quoted(f"{name}{REPLACED}")
    renamed = [f"ALTER DATABASE {new} RENAME TO {_quoted(name)}"]
    if living:
        await _administer(url, f"DROP DATABASE IF EXISTS {old}")
        renamed.insert(0, f"ALTER DATABASE {_quoted(name)} RENAME TO {old}")
    # In one transaction: there is always a database of this name.
    await _administer(url, ";".join(renamed))
    if living:
        await _administer(url, f"DROP DATABASE {old}")


async def _administer(url: str, *statements: str) -> None:
    try:
        connection = await asyncpg.connect(urlsplit(url)._replace(path=f"/{MAINTENANCE}").geturl(), timeout=10)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise ChildFailed(_refused(url, error)) from None


async def _reachable(url: str) -> None:
    try:
        connection = await asyncpg.connect(url, timeout=10)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise ChildFailed(_refused(url, error)) from None
    await connection.close()


def _refused(url: str, error: BaseException) -> str:
    hosts = urlsplit(url).netloc.rpartition("@")[2]
    return f"Postgres at {hosts} refused: {' '.join(str(error).split()) or type(error).__name__}."


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
