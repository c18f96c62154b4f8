"""Sell to buyers who pay at the provider, and print what became of orders and money: `python -m tests.by_buyer`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import click
from rich.console import Console
from rich.table import Table

from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.valkey_server import LocalValkey
from tests.by_buyer.sale import Plan, selling
from tests.conftest import alembic, assert_invariants

TABLE = """
SELECT o.status, coalesce(i.state, 'never asked to pay') AS intent, count(*) AS orders,
    sum(o.unit_price_minor) FILTER (WHERE i.state IN ('captured', 'refunded')) AS captured,
    sum(o.unit_price_minor) FILTER (WHERE i.state = 'refunded') AS refunded
FROM orders AS o LEFT JOIN payment_intents AS i ON o.order_id = i.order_id
GROUP BY o.status, i.state ORDER BY o.status, i.state
"""
OPEN = """
SELECT (SELECT count(*) FROM payment_intents WHERE due_at IS NOT NULL)
    + (SELECT count(*) FROM orders WHERE due_at IS NOT NULL)
"""


async def sell(plan: Plan) -> None:
    """Run the sale on servers of its own and print its table; ends with 1 if an invariant does not hold."""
    with tempfile.TemporaryDirectory(prefix="flashsale-by-buyer-") as folder:
        postgres, valkey = LocalPostgres(Path(folder) / "pg"), LocalValkey(Path(folder) / "valkey")
        try:
            url, redis = await postgres.start(), await valkey.start()
            done = alembic(url, "upgrade", "head")
            if done.returncode:
                sys.exit(done.stderr)
            db = await asyncpg.connect(url)
            began_s = time.monotonic()
            async with selling(plan, url, redis, webhook_duplicate_rate=0.2, webhook_loss_rate=0.1) as sale:
                await sale.run()
                sold_s = time.monotonic() - began_s
                async with asyncio.timeout(plan.longest_s):
                    while await db.fetchval(OPEN):
                        await asyncio.sleep(0.2)
                await assert_invariants(sale.services.database)
                table = Table("order", "intent", "orders", "captured", "refunded", title_justify="left")
                for row in await db.fetch(TABLE):
                    table.add_row(*(str(one or 0) for one in row))
                Console(width=100).print(table)
                free = await db.fetchval("SELECT free FROM product_live")
                print(f"{plan.units} units, all sold after {sold_s:.1f} s, {free} free; buyers: {dict(sale.did)}")  # noqa: T201
            await db.close()
        finally:
            await valkey.stop()
            await postgres.stop()


@click.command(epilog="Example: python -m tests.by_buyer --units 50 --buyers 150 --window-s 20")
@click.option("--units", default=50, show_default=True)
@click.option("--buyers", default=150, show_default=True)
@click.option("--window-s", default=20, show_default=True)
def main(units: int, buyers: int, window_s: int) -> None:
    """Sell to buyers of whom 40 % never pay and 5 % pay too late."""
    asyncio.run(sell(Plan(units=units, buyers=buyers, window_s=window_s, longest_s=230.0)))


if __name__ == "__main__":
    main()
