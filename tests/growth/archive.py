"""Archive a sale of 100,000 orders while another product sells: `nox -s archive`, or `python -m tests.growth.archive`.

It prints how long the archive took, how many rows left the tables, and the times of the other product's buys before and
meanwhile. The whole audit runs before and after, and the audit of the files. `--part` is the size of a part: the size of
the sale means one transaction. `--kills` kills the command so often, at random, and lets the next run go on.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import click
from rich.console import Console
from rich.table import Table

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.bootstrap.api import open_services
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.stack import ROOT
from flashsale.local.valkey_server import LocalValkey
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
from flashsale.usecases.archive_sale import ORDERS_PER_PART
from flashsale.usecases.tidy import CARRIED, SETTLED_S
from tests.conftest import alembic, execute, make_settings, with_database
from tests.growth.hot import Buys, HotSale, after
from tests.growth.old_orders import add_old_orders

if TYPE_CHECKING:
    from flashsale.settings import Settings

RATE, BASELINE_S = 100.0, 10.0
"""Buys of the other product per second, and for how long they are measured alone."""

RUN = "from flashsale.cli import main; from flashsale.usecases import archive_sale as a; a.ORDERS_PER_PART = {part}; main()"


async def prepare(db: asyncpg.Connection[Any], orders: int) -> int:
    """Write the sale's orders, as if they had been accepted with these fingerprints; returns the product."""
    await add_old_orders(db, orders)
    product_id: int = await db.fetchval("SELECT max(product_id) FROM orders")
    fingerprint = hashlib.blake2b(b"%d:%d" % (product_id, 1), digest_size=16).digest()
    await db.execute("UPDATE requests SET fingerprint = $1", fingerprint)
    await db.execute(
        "INSERT INTO unit_pools (product_id, unmade) SELECT product_id, 0 FROM products ON CONFLICT DO NOTHING"
    )
    return product_id


async def rows_in_tables(db: asyncpg.Connection[Any]) -> tuple[int, int]:
    """Count the rows of all tables, and their bytes with their indexes."""
    tables = await db.fetch(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    rows = sum([await db.fetchval(f"SELECT count(*) FROM {row['name']}") for row in tables])
    size = await db.fetchval(
        "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return int(rows), int(size)


async def violated(settings: Settings) -> list[str]:
    """Run every invariant of the database; returns those that are violated."""
    database = Database(settings.postgres.model_copy(update={"statement_timeout_s": 600}), name="audit", by_index=False)
    await database.open()
    try:
        found = await PostgresInvariants(database, timeout_s=600).check(overdue_s=3600, stuck_s=3600)
    finally:
        await database.close()
    return [f"{one.invariant} {one.sample}" for one in found if one.violations]


async def archived(url: str, product_id: int, folder: Path, *, part: int, kills: int, console: Console) -> float:
    """Run the command, and kill it so often before; returns the seconds of the runs."""
    environment = {
        **os.environ,
        "FLASHSALE_POSTGRES__URL": url,
        "PYTHONPATH": str(ROOT / "src"),
        "FLASHSALE_LOG__LEVEL": "error",
    }
    command = [
        sys.executable,
        "-c",
        RUN.format(part=part),
        "archive",
        str(product_id),
        "--to",
        str(folder),
        "--quiet-days",
        "0",
    ]
    draw, began_s = random.Random(7), time.monotonic()
    for left in reversed(range(kills + 1)):
        run = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if left:
            try:
                await asyncio.wait_for(run.wait(), draw.uniform(1.0, 12.0))
            except TimeoutError:
                run.kill()
        said = (await run.communicate())[0].decode().strip()
        if left:
            console.print(f"killed: {run.returncode}, {said or 'nothing was said'}", highlight=False)
        elif run.returncode:
            raise RuntimeError(said)
    console.print(said, highlight=False, soft_wrap=True)
    return time.monotonic() - began_s


async def measure(folder: Path, orders: int, part: int, kills: int, console: Console) -> bool:
    """Measure; true if every audit held and every run of the command ended well."""
    postgres, valkey = LocalPostgres(folder / "postgres"), LocalValkey(folder / "valkey")
    await asyncio.gather(postgres.start(), valkey.start())
    try:
        await execute(postgres.url, "CREATE DATABASE shop")
        url = with_database(postgres.url, "shop")
        done = await asyncio.to_thread(alembic, url, "upgrade", "head")
        if done.returncode:
            raise RuntimeError(done.stderr)
        db = await asyncpg.connect(url)
        product_id = await prepare(db, orders)
        settings = make_settings(url, valkey.url, gate={"rate_limit": 0})
        async with open_services(settings, name="archive") as services:
            upkeep = PostgresUpkeep(services.database)
            while await upkeep.carry(settled_s=SETTLED_S, limit=CARRIED) == CARRIED:
                pass
            await services.catalog.refresh()
            await services.administer.close(product_id)
            await services.administer.archive(product_id)
            hot = await HotSale.opened(services, units=100_000)
            before, wrong = await rows_in_tables(db), await violated(settings)
            alone = await hot.sell(rate=RATE, until=await after(BASELINE_S))
            over = asyncio.Event()
            selling = asyncio.create_task(hot.sell(rate=RATE, until=over))
            seconds = await archived(url, product_id, folder / "files", part=part, kills=kills, console=console)
            over.set()
            meanwhile, later = await selling, await rows_in_tables(db)
            wrong += await violated(settings)
        await db.close()
    finally:
        await asyncio.gather(postgres.stop(), valkey.stop())
    check = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flashsale.cli", "archive", "check", str(folder / "files"), stdout=subprocess.PIPE
    )
    judged = (await check.communicate())[0].decode()
    files = [path for path in (folder / "files").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    console.print(judged.strip(), highlight=False, soft_wrap=True)
    console.print(
        f"{orders:,} orders in {seconds:.1f} s: {len(files)} files, {size / 1e6:.1f} MB; rows: {before[0]:,} -> {later[0]:,}"
    )
    table = Table("buys of another product", "202s", "p50, ms", "p99, ms", "longest, ms", "told to come again")
    for name, buys in (("alone", alone), ("meanwhile", meanwhile)):
        table.add_row(name, *_shown(buys))
    console.print(table)
    console.print("every audit holds" if not wrong else f"WRONG: {wrong}")
    return not wrong and not check.returncode


def _shown(buys: Buys) -> list[str]:
    times = [f"{buys.quantile_ms(share):.1f}" for share in (0.5, 0.99, 1.0)]
    return [f"{len(buys.took_s):,}", *times, f"{buys.busy:,}"]


@click.command(epilog="Example: python -m tests.growth.archive --orders 20000 --kills 3")
@click.option("--orders", type=click.IntRange(100, 100_000), default=100_000, show_default=True)
@click.option(
    "--part", type=click.IntRange(1), default=ORDERS_PER_PART, show_default=True, help="Orders in a transaction."
)
@click.option("--kills", type=click.IntRange(0), default=0, show_default=True, help="How often the command is killed.")
def main(orders: int, part: int, kills: int) -> None:
    """Archive a sale while another product sells; exit code 0 only if every audit holds."""
    configure_logs(LogSettings(level="error"))
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        right = asyncio.run(
            measure(Path(folder), orders, part, kills, Console(width=None if sys.stdout.isatty() else 120))
        )
    sys.exit(not right)


if __name__ == "__main__":
    main()
