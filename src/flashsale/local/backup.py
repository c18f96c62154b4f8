"""Backup and restore of the local stack: the database, the gateway simulator's ledger and the secrets, in one file.

The database is dumped first, in one snapshot, and the ledger is copied afterwards, so the copied ledger has every
payment of the snapshot. Charges that are only in the ledger were made after the restore point.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import asyncpg

from flashsale import __version__
from flashsale.local.access import ensure_database, write_secret
from flashsale.local.binaries import postgres_bin
from flashsale.local.children import ChildFailed, run_to_end
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.stack import DATABASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

DUMP, LEDGER, SECRETS, ABOUT = "database.dump", "gateway-ledger.jsonl", "secrets.json", "about.json"
PARTS = (ABOUT, DUMP, LEDGER, SECRETS)

AFTER = "charged-after-restore-point.jsonl"
"""The entries of the ledger whose orders the restored database does not know."""

DUMP_S = 3600.0
"""Longest time of a dump, and of a restore."""

PAID_BY_BUYERS = """
UPDATE orders
SET pay_requested_at = clock_timestamp(),
    due_at = CASE WHEN status = 'awaiting_payment' THEN clock_timestamp() ELSE due_at END
WHERE order_id = ANY ($1::uuid[]) AND status IN ('queued', 'processing', 'awaiting_payment')
    AND payment_mode = 'by_buyer' AND pay_requested_at IS NULL
"""
"""Selects orders whose buyers paid after the restore point; their charge repeats the old one under the same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """Money that the gateway took for an order that the restored database does not know."""

    order_id: str
    amount_minor: int
    """The captured amount less refunds."""
    currency: str


async def backup(data_dir: Path, file: Path) -> str:
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
    new = file.with_name(f"{file.name}.new")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".flashsale-backup-") as folder:
        async with _server(data_dir) as url:
            await _run_program(data_dir, "pg_dump", url, "--format=custom", f"--file={folder}/{DUMP}")
        about = {"made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "version": __version__}
        ledger = data_dir / LEDGER
        # The last line may be incomplete: no caller got an answer for it.
        lines = ledger.read_bytes() if ledger.exists() else b""
        parts = {
            ABOUT: json.dumps(about).encode(),
            LEDGER: lines[: lines.rfind(b"\n") + 1],
            SECRETS: (data_dir / SECRETS).read_bytes(),
        }
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w") as archive:
            archive.add(Path(folder) / DUMP, DUMP)
            for name, data in parts.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        with new.open("rb") as written:
            os.fsync(written.fileno())
        new.rename(file)
    return f"{file}: the stack as of {about['made_at']}, {file.stat().st_size:,} bytes; it holds secrets"


async def restore(data_dir: Path, file: Path, *, overwrite: bool, ledger: Path | None = None) -> Sequence[Charged]:
    """Restore a backup into `data_dir`, and return the charges made after the backup. The gate is loaded at start.

    The gateway's ledger is `ledger`, or the ledger in `data_dir`, or else the ledger of the backup: the restored
    database may lack charges, but the ledger must keep them.

    Everything is created in a temporary directory and moved at the end, so a failure leaves `data_dir` as it was.

    Raises:
        ChildFailed: if a stack runs there; if data is there and `overwrite` is false; if a part fails.
        MissingBinary: if there is no server or no `pg_restore`.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    with _locked(data_dir):
        living = [name for name in ("postgres/cluster", LEDGER, SECRETS) if (data_dir / name).exists()]
        if living and not overwrite:
            raise ChildFailed(f"{data_dir} holds data ({', '.join(living)}): --overwrite deletes them.")
        staging = data_dir / "restoring"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o711)
        try:
            _unpack(file, staging)
            if ledger is None and (data_dir / LEDGER).exists():
                ledger = data_dir / LEDGER
            if ledger is not None:
                shutil.copyfile(ledger, staging / LEDGER)
            server = LocalPostgres(staging / "postgres", log_path=data_dir / "logs" / "restore.log")
            try:
                url = _in_database(await server.start())
                await ensure_database(url)
                options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
                await _run_program(data_dir, "pg_restore", url, *options, str(staging / DUMP))
                charged = await _settle_ledger(url, staging)
            finally:
                await server.stop()
            (staging / DUMP).unlink()
            (staging / ABOUT).unlink()
            shutil.rmtree(data_dir / "postgres", ignore_errors=True)
            (data_dir / "valkey" / "dump.rdb").unlink(missing_ok=True)
            for path in staging.iterdir():
                path.replace(data_dir / path.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return charged


async def _settle_ledger(url: str, folder: Path) -> Sequence[Charged]:
    """Keep the keys of known orders in the ledger, and move the keys of other orders to a second file."""
    connection = await asyncpg.connect(url)
    try:
        known = {str(row["order_id"]) for row in await connection.fetch("SELECT order_id FROM orders")}
        kept: list[str] = []
        after: list[str] = []
        charges: dict[str, dict[str, Any]] = {}
        for line in (folder / LEDGER).read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break  # half written by a simulator that was killed: no caller got an answer for it
            record = json.loads(line)
            order_id = record["key"].partition(":")[0]
            (kept if order_id in known else after).append(line)
            charge = charges.setdefault(record["key"], {"order_id": order_id, "taken": 0})
            if record["op"] == "open":
                charge.update(amount=record["amountMinor"], currency=record["currency"])
            elif record["op"] == "capture":
                charge["taken"] += charge["amount"]
            elif record["op"] == "refund":
                charge["taken"] -= record["amountMinor"]
        paid = [charge["order_id"] for charge in charges.values() if charge["taken"] and charge["order_id"] in known]
        await connection.execute(PAID_BY_BUYERS, paid)
    finally:
        await connection.close()
    write_secret(folder / LEDGER, "".join(kept))
    write_secret(folder / AFTER, "".join(after))
    return [
        Charged(order_id=charge["order_id"], amount_minor=charge["taken"], currency=charge["currency"])
        for charge in charges.values()
        if charge["taken"] and charge["order_id"] not in known
    ]


def _unpack(file: Path, folder: Path) -> None:
    try:
        with tarfile.open(file, "r:") as archive:
            for name in PARTS:
                member = archive.extractfile(name)
                assert member is not None, name  # noqa: S101 - a folder of that name
                with (folder / name).open("wb") as out:
                    (folder / name).chmod(0o600)
                    shutil.copyfileobj(member, out)
        json.loads((folder / SECRETS).read_text())
    except (tarfile.TarError, AssertionError, KeyError, ValueError, EOFError) as error:
        raise ChildFailed(f"{file} is no backup of `flashsale backup`, or a damaged one: {error}") from None


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ChildFailed(f"A stack runs on {data_dir}: stop it first.") from None
        yield


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


async def _run_program(data_dir: Path, name: str, url: str, *arguments: str) -> None:
    """Run a Postgres program on a database. Its environment holds the password, which only this user can read."""
    parts = urlsplit(url)
    program = postgres_bin(copies=data_dir / "postgres" / "binaries") / name
    if not program.exists():
        raise ChildFailed(f"{program.parent} contains `postgres` and no {name}.")
    environment = {
        **os.environ,
        "PGHOST": str(parts.hostname),
        "PGPORT": str(parts.port),
        "PGUSER": unquote(str(parts.username)),
        "PGPASSWORD": unquote(str(parts.password)),
        "PGDATABASE": DATABASE,
    }
    # pg_dump reads the database's name from the environment; pg_restore without a name only prints a script.
    told = [f"--dbname={DATABASE}"] if name == "pg_restore" else []
    log_path = data_dir / "logs" / f"{name}.log"
    await run_to_end(
        name, [str(program), *told, *arguments], log_path=log_path, environment=environment, timeout_s=DUMP_S
    )
