"""Backup and restore of the local stack: the database, the simulator's ledger and the secrets, in one file.

The database is dumped first, in one snapshot, and the ledger is copied afterwards, so the copied ledger has every
payment of the snapshot. Charges that are only in the ledger were made after the restore point.

The callers give what this room may not know: how a schema is read, and what the lines of the ledger say.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import asyncpg

from flashsale.local.access import ensure_database, take_lock, write_secret
from flashsale.local.archive import DUMP, LEDGER, SECRETS, Schema, now, pack, present, unpack
from flashsale.local.children import ChildFailed
from flashsale.local.dumps import dump, load, server_version
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.stack import DATABASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence

    from flashsale.domain.ledgers import Charged, Split
    from flashsale.local.archive import Manifest

    SchemaOf = Callable[[str], Awaitable[tuple[str, str] | None]]
    """Reads revision and digest of the database that a URL names."""

AFTER = "charged-after-restore-point.jsonl"
"""The entries of the ledger whose orders the restored database does not know."""

PAID_BY_BUYERS = """
UPDATE orders
SET pay_requested_at = clock_timestamp(),
    due_at = CASE WHEN status = 'awaiting_payment' THEN clock_timestamp() ELSE due_at END
WHERE order_id = ANY ($1::uuid[]) AND status IN ('queued', 'processing', 'awaiting_payment')
    AND payment_mode = 'by_buyer' AND pay_requested_at IS NULL
"""
"""Selects orders whose buyers paid after the restore point; their charge repeats the old one under the same key."""

HAS_REFUNDS = "SELECT to_regclass('refunds') IS NOT NULL"
"""A backup of an older release may have no such table."""

NOTE_REFUND = "SELECT note_refund_v1($1::uuid, $2, $3, 'succeeded', $4, $5, NULL, NULL)"
"""Merges a refund that was made after the restore point; one that the database knows changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did."""

    made_at: str
    """When the backup was made."""
    charged: Sequence[Charged]
    unsettled: Sequence[str]
    """Orders that were paid and refunded after the backup: their state says neither."""


async def backup(data_dir: Path, file: Path, *, schema_of: SchemaOf) -> str:
    """Write a backup of the stack in `data_dir`, which may run, and return a sentence about the backup.

    Raises:
        ChildFailed: if there is nothing to back up, `file` exists, or a part fails.
        MissingBinary: if there is no `pg_dump`.
    """
    data_dir = data_dir.resolve()
    if not (data_dir / "postgres" / "cluster").exists():
        raise ChildFailed(
            f"{data_dir} contains no database: back up the server that it names, see docs/how-to/back-up.md."
        )
    if file.exists():
        raise ChildFailed(f"{file} exists: name another file.")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".flashsale-backup-") as made:
        folder = Path(made)
        async with _server(data_dir) as url:
            made_at = now()
            found = await schema_of(url)
            if found is None:
                raise ChildFailed(f"The database in {data_dir} is not migrated: there is nothing to back up.")
            postgres = await server_version(url)
            await dump(url, folder / DUMP, copies=_copies(data_dir))
        ledger = data_dir / LEDGER
        (folder / LEDGER).write_bytes(whole_lines(ledger) if ledger.exists() else b"")
        shutil.copyfile(data_dir / SECRETS, folder / SECRETS)
        schema = Schema(revision=found[0], digest=found[1])
        pack(file, folder, made_at=made_at, postgres=postgres, schema=schema)
    return f"{file}: the stack as of {made_at}, {file.stat().st_size:,} bytes; it holds secrets"


async def restore(
    data_dir: Path,
    file: Path,
    *,
    overwrite: str | None,
    ledger: Path | None = None,
    schema_of: SchemaOf,
    revisions_to: str,
    split: Callable[[Path, Container[str]], Split],
) -> Restored:
    """Restore a backup into `data_dir`, and return what was charged after the backup. The gate is loaded at start.

    `overwrite`: the name of the database, which permits to replace data. The gateway's ledger is `ledger`, or the
    ledger in `data_dir`, or else the ledger of the backup: the restored database may lack charges, but the ledger must
    keep them.

    Everything is created in a temporary directory and moved at the end, so a failure leaves `data_dir` as it was.

    Raises:
        ChildFailed: if a stack runs there; if data is there and `overwrite` does not name it; if a part fails.
        MissingBinary: if there is no server or no `pg_restore`.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    with _locked(data_dir):
        _permit(data_dir, overwrite)
        staging = data_dir / "restoring"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o711)
        try:
            manifest = unpack(file, staging, revisions_to=revisions_to)
            if SECRETS not in manifest.parts:
                raise ChildFailed(f"{file} is a backup of a database on a server: restore it with --url.")
            if ledger is None and (data_dir / LEDGER).exists():
                ledger = data_dir / LEDGER
            if ledger is not None:
                shutil.copyfile(ledger, staging / LEDGER)
            server = LocalPostgres(staging / "postgres", log_path=data_dir / "logs" / "restore.log")
            try:
                url = _in_database(await server.start())
                await ensure_database(url)
                await load(url, staging / DUMP, copies=_copies(data_dir))
                await check_schema(url, file, manifest, schema_of)
                charged, unsettled = await settle_ledger(url, staging, split)
            finally:
                await server.stop()
            _replace(data_dir, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Restored(made_at=manifest.made_at, charged=charged, unsettled=unsettled)


async def check_schema(url: str, file: Path, manifest: Manifest, schema_of: SchemaOf) -> None:
    """Compare the schema of a restored database with the one of the backup.

    Raises:
        ChildFailed: if they differ.
    """
    if await schema_of(url) != (manifest.schema.revision, manifest.schema.digest):
        raise ChildFailed(f"{file}: the restored schema is not the one of the manifest.")


def _permit(data_dir: Path, overwrite: str | None) -> None:
    """Refuse to replace data, unless the caller names the database that goes.

    Raises:
        ChildFailed: with what is there and what to add.
    """
    if overwrite not in {None, DATABASE}:
        raise ChildFailed(f"--overwrite names the database {overwrite}, and the one here is {DATABASE}.")
    living = present(data_dir)
    if living and overwrite is None:
        raise ChildFailed(
            f"{data_dir} holds data ({', '.join(living)}): `--overwrite {DATABASE}` deletes the database of this name."
        )


def _replace(data_dir: Path, staging: Path) -> None:
    """Put the restored data in the place of the old."""
    (staging / DUMP).unlink()
    shutil.rmtree(data_dir / "postgres", ignore_errors=True)
    (data_dir / "valkey" / "dump.rdb").unlink(missing_ok=True)
    for name in ("postgres", LEDGER, SECRETS, AFTER):
        (staging / name).replace(data_dir / name)


async def settle_ledger(
    url: str, folder: Path, split: Callable[[Path, Container[str]], Split]
) -> tuple[Sequence[Charged], Sequence[str]]:
    """Keep the entries of known orders in the ledger, move the others to a second file, and merge later refunds."""
    connection = await asyncpg.connect(url)
    try:
        known = {str(row["order_id"]) for row in await connection.fetch("SELECT order_id FROM orders")}
        try:
            parts = split(folder / LEDGER, known)
        except ValueError as error:
            raise ChildFailed(str(error)) from None
        await connection.execute(PAID_BY_BUYERS, list(parts.paid))
        unsettled = []
        if parts.given_back and await connection.fetchval(HAS_REFUNDS):
            for one in parts.given_back:
                noted = await connection.fetchval(
                    NOTE_REFUND, one.order_id, one.key, one.reference, one.amount_minor, one.currency
                )
                if noted not in {"noted", "known"}:
                    unsettled.append(one.order_id)
    finally:
        await connection.close()
    write_secret(folder / LEDGER, "".join(parts.kept))
    write_secret(folder / AFTER, "".join(parts.after))
    return parts.charged, unsettled


def whole_lines(ledger: Path) -> bytes:
    """Return a ledger without an incomplete last line: no caller got an answer for it."""
    lines = ledger.read_bytes()
    return lines[: lines.rfind(b"\n") + 1]


def _copies(data_dir: Path) -> Path:
    return data_dir / "postgres" / "binaries"


def _locked(data_dir: Path) -> IO[str]:
    return take_lock(data_dir, f"A stack runs on {data_dir}: stop it first.")


@contextlib.asynccontextmanager
async def _server(data_dir: Path) -> AsyncIterator[str]:
    """Yield the URL of the stack's database; if no stack runs, its server is started for the block."""
    server = LocalPostgres(data_dir / "postgres", log_path=data_dir / "logs" / "postgres.log")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(data_dir))
        except ChildFailed:
            yield _in_database(server.url)
            return
        try:
            yield _in_database(await server.start())
        finally:
            await server.stop()


def _in_database(url: str) -> str:
    return url.rpartition("/")[0] + f"/{DATABASE}"
