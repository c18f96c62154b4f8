"""The cost of an old shop: each periodic job without old orders and with millions of them. `nox -s history`."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import click
from rich.console import Console
from rich.table import Table

from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.jobs import open_jobs
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.valkey_server import LocalValkey
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
from flashsale.usecases.tidy import CARRIED, SETTLED_S
from tests.conftest import alembic, execute, make_settings, with_database
from tests.growth.old_orders import add_old_orders, add_old_products, old_paid_orders
from tests.growth.regular_work import Shop

AIM = 2.0
NOISE_S = 0.003
"""What a busy machine adds to the fastest work: a difference that is smaller counts as none."""

REOPENED = 10
"""Old orders that are open again, because a refund of them is under way."""

RUNS, SECONDS = 30, 4.0
"""Most runs of one piece of work, and the time after which no further one begins."""


async def timed(young, old):
    """Median seconds of each piece of work in two shops, taken in turn."""
    medians = {}
    for name in young:
        seconds = [], []
        for _ in range(RUNS):
            for shop, taken in zip((young, old), seconds, strict=True):
                began_s = time.perf_counter()
                await shop[name]()
                taken.append(time.perf_counter() - began_s)
            if sum(map(sum, seconds)) > SECONDS:
                break
        medians[name] = [statistics.median(taken) for taken in seconds]
    return medians


@asynccontextmanager
async def opened_shop(postgres, valkey, number, *, products_of, orders, console):
    """Open a shop in a database of its own, with so many old orders; returns its regular work, each done once.

    Without old orders it has as many products as `products_of` orders would have.
    """
    await execute(postgres.url, f"CREATE DATABASE shop_{number}")
    url = with_database(postgres.url, f"shop_{number}")
    done = alembic(url, "upgrade", "head")
    if done.returncode:
        raise RuntimeError(done.stderr)
    db = await asyncpg.connect(url)
    began_s = time.perf_counter()
    await (add_old_orders(db, orders) if orders else add_old_products(db, products_of))
    await db.close()
    if orders:
        console.print(f"{orders:,} old orders written in {time.perf_counter() - began_s:.0f} s")
    settings = make_settings(url, f"{valkey.url.removesuffix('/0')}/{number}", gate={"rate_limit": 0})
    async with open_services(settings) as services, open_jobs(settings, name="history") as jobs:
        began_s, upkeep = time.perf_counter(), PostgresUpkeep(services.database)
        while await upkeep.carry(settled_s=SETTLED_S, limit=CARRIED) == CARRIED:
            pass
        if orders:
            console.print(f"carried into the totals, once, in {time.perf_counter() - began_s:.0f} s")
        shop = Shop(services, jobs)
        await shop.open()
        db = await asyncpg.connect(url)
        await shop.reopen(await old_paid_orders(db, REOPENED))
        await db.close()
        work = shop.work()
        for do in work.values():
            await do()
        # Each time there would be more to do for all the others.
        del work["new product"]
        yield work


async def measure(folder: Path, orders: int, console: Console) -> bool:
    """Measure two shops in turn, one of them with old orders; returns whether every aim is met."""
    postgres = LocalPostgres(folder / "postgres", settings={"fsync": "off"})
    valkey = LocalValkey(folder / "valkey")
    await asyncio.gather(postgres.start(), valkey.start())
    try:
        async with (
            opened_shop(postgres, valkey, 1, products_of=orders, orders=orders, console=console) as old,
            opened_shop(postgres, valkey, 2, products_of=orders, orders=0, console=console) as young,
        ):
            medians = await timed(young, old)
    finally:
        await asyncio.gather(postgres.stop(), valkey.stop())
    table = Table("regular work", "with none, ms", f"with {orders:,}, ms", "ratio", f"aim: {AIM:g}")
    met = True
    for name, (young_s, old_s) in medians.items():
        good = old_s <= max(AIM * young_s, young_s + NOISE_S)
        met &= good
        table.add_row(
            name, f"{young_s * 1000:.1f}", f"{old_s * 1000:.1f}", f"{old_s / young_s:.2f}", "met" if good else "MISSED"
        )
    console.print(table)
    return met


@click.command(epilog="Example: python -m tests.growth --orders 300000")
@click.option("--orders", type=click.IntRange(1), default=3_000_000, show_default=True, help="Old orders.")
def main(orders: int) -> None:
    """Measure the regular work of a shop without old orders and with many; exit code 0 only if every aim is met."""
    configure_logs(LogSettings(level="error"))
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        met = asyncio.run(measure(Path(folder), orders, Console(width=None if sys.stdout.isatty() else 120)))
    sys.exit(not met)


if __name__ == "__main__":
    main()
