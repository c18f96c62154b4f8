"""What 1,500 idle products cost a hot one: `python -m tests.growth.idle`.

A local stack with its API process and workers sells one product, without and with idle products, in turn. Each time is a
stack of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import asyncpg
import click
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from flashsale.demo.sale import create_product
from flashsale.local.stack import OWNER_URL, Stack
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
from tests.faults.many_products import BULK
from tests.support.api import BUY, FAST, buyer_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENTS = 32
SECONDS = 8.0
MAY_COST = 0.9
"""Share of the accepted orders per second that have to be left: two runs of one stack differ by as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressed:
    """What buyers of the hot product saw."""

    accepted_per_s: float
    p99_ms: float


async def press(folder: Path, idle: int) -> Pressed:
    """Start a stack with so many idle products, and buy the hot one for some seconds."""
    environment = {**FAST, "FLASHSALE_LOG__LEVEL": "warning"}
    async with Stack(folder, port=0, api=1, environment=environment) as stack:
        db = await asyncpg.connect(stack.environment[OWNER_URL])
        await db.execute(BULK.replace("$1", str(idle)))
        await db.close()
        product_id = await create_product(stack, {"name": "Ticket", "price": "1", "stock": 100_000})
        async with Redis.from_url(stack.environment["FLASHSALE_REDIS__URL"], decode_responses=True) as redis:
            async with asyncio.timeout(120):
                while len([key async for key in redis.scan_iter("flashsale:*:epoch", count=5000)]) < idle + 1:
                    await asyncio.sleep(0.1)
        tokens = await asyncio.to_thread(buyer_tokens, stack, CLIENTS)
        took_s: list[float] = []
        ends_s = time.monotonic() + SECONDS
        async with aiohttp.ClientSession(stack.base_url) as session, asyncio.TaskGroup() as group:
            for token in tokens:
                group.create_task(_buy(session, product_id, token, took_s, ends_s))
    ordered = sorted(took_s)
    return Pressed(accepted_per_s=len(ordered) / SECONDS, p99_ms=ordered[int(0.99 * len(ordered))] * 1000)


async def _buy(session: aiohttp.ClientSession, product_id: int, token: str, took_s: list[float], ends_s: float) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    while time.monotonic() < ends_s:
        began_s = time.monotonic()
        async with session.post(BUY, json={"productId": product_id}, headers=headers) as answer:
            await answer.read()
            if answer.status == 202:
                took_s.append(time.monotonic() - began_s)


async def measure(folder: Path, counts: Sequence[int], rounds: int) -> dict[int, list[Pressed]]:
    """Press each stack in turn."""
    found: dict[int, list[Pressed]] = {count: [] for count in counts}
    for number in range(rounds):
        for count in counts:
            found[count].append(await press(folder / f"{count}-{number}", count))
    return found


@click.command(epilog="Example: python -m tests.growth.idle --rounds 1")
@click.option("--idle", type=click.IntRange(1), default=1500, show_default=True, help="Idle products.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
def main(idle: int, rounds: int) -> None:
    """Sell a hot product without and with idle ones; exit code 0 only if it sells as fast."""
    configure_logs(LogSettings(level="error"))
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        found = asyncio.run(measure(Path(folder), (0, idle), rounds))
    table = Table("idle products", "orders accepted/s (all rounds)", "median", "p99, ms: median")
    medians = {}
    for count, runs in found.items():
        medians[count] = statistics.median(run.accepted_per_s for run in runs)
        each = ", ".join(f"{run.accepted_per_s:,.0f}" for run in runs)
        p99_ms = statistics.median(run.p99_ms for run in runs)
        table.add_row(f"{count:,}", each, f"{medians[count]:,.0f}", f"{p99_ms:.1f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    sys.exit(medians[idle] < MAY_COST * medians[0])


if __name__ == "__main__":
    main()
