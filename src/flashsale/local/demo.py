"""The demo: a whole sale on one machine, watched live, measured and audited."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
from rich.console import Console
from rich.live import Live
from rich.table import Table

from flashsale.adapters.postgres.queries import load
from flashsale.domain.orders import FINAL, OrderStatus
from flashsale.local.children import Child, ChildFailed
from flashsale.local.stack import ROOT, Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

FIGURES = load("queries/figures.sql")

PLAYERS = 250
"""Locust users that play the buyers: enough that none waits for a free one."""

PERSISTENCE = 0.05
PERSIST_S = 9.0
"""Some sold-out buyers keep trying for this long, so that units that come back after a decline are sold again."""

REFRESH_S = 0.5
DEADLINE_S = 180.0
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """What is sold to how many."""

    units: int
    buyers: int
    seconds: float
    price: str
    seed: int


@dataclass(slots=True, kw_only=True)
class Seen:
    """The live view's figures."""

    orders: dict[str, int]
    jobs: int
    free: int


async def run_demo(sale: Sale, *, data_dir: Path, api: int, environment: Mapping[str, str]) -> int:
    """Run the sale and give the exit code: 0 only if the audit holds and each unit is confirmed or free."""
    # Without a terminal, wide enough that no figure is folded.
    console = Console(width=None if sys.stdout.isatty() else 110)
    began_s = time.monotonic()
    stack = Stack(
        data_dir,
        api=api,
        port=0,
        environment={**environment, "FLASHSALE_SIMULATOR__SEED": str(sale.seed), "FLASHSALE_LOG__LEVEL": "warning"},
        say=lambda line: console.print(f"[{time.monotonic() - began_s:5.1f} s] {line}", soft_wrap=True),
    )
    async with stack:
        say = stack.say
        product_id = await _create_product(stack, sale)
        buyers_file = data_dir / "buyers.jsonl"
        say(f"making {sale.buyers:,} buyers with a token each (no passwords: nobody logs in as them)")
        await _finish(_command(stack, "buyers", "buyers", "--count", str(sale.buyers), "--out", str(buyers_file)))
        say(
            f"{sale.buyers:,} buyers arrive within {sale.seconds:g} s for {sale.units:,} units at {sale.price} USD; "
            f"{PERSISTENCE:.0%} of those told `sold out` try again for {PERSIST_S:g} s"
        )
        say("limits as by default: 20 buys per second and user; attempts per minute are not limited")
        pool = await asyncpg.create_pool(stack.environment["FLASHSALE_POSTGRES__URL"], min_size=1, max_size=2)
        try:
            history, summary_file = data_dir / "history.jsonl", data_dir / "summary.json"
            load = _locust(stack, sale, product_id, buyers_file, history, summary_file)
            await _watch(console, pool, load, product_id, sale.units)
            if load.returncode:
                console.print(load.failure(f"ended with {load.returncode}"))
            memory = stack.pss_bytes()
            summary: dict[str, float] = json.loads(summary_file.read_text()) if summary_file.exists() else {}
            outcome = await _outcome(pool, product_id)
        finally:
            await pool.close()
        console.print(_results(sale, outcome, summary, memory))
        audit = _command(stack, "audit", "audit", "--history", str(history))
        audit_code = await audit.wait()
        console.print(audit.log_path.read_text().strip(), highlight=False, markup=False, soft_wrap=True)
        say("stopping")
    accounted = outcome["confirmed"] + outcome["free"] == sale.units
    if not accounted:
        console.print(f"{sale.units - outcome['confirmed'] - outcome['free']} units are neither confirmed nor free")
    right = accounted and not audit_code and load.returncode == 0
    console.print(f"[{time.monotonic() - began_s:5.1f} s] {'the sale was right' if right else 'THE SALE WENT WRONG'}")
    return int(not right)


async def _create_product(stack: Stack, sale: Sale) -> int:
    async with aiohttp.ClientSession(stack.base_url, raise_for_status=True) as session:
        credentials = {"email": stack.secrets["admin_email"], "password": stack.secrets["admin_password"]}
        async with session.post("/api/auth/login", json=credentials) as response:
            token = (await response.json())["token"]
        product = {"name": "Phone", "price": sale.price, "stock": sale.units}
        headers = {"Authorization": f"Bearer {token}"}
        async with session.post("/api/admin/products", json=product, headers=headers) as response:
            product_id: int = (await response.json())["id"]
    return product_id


def _command(stack: Stack, name: str, *arguments: str) -> Child:
    log_path = stack.log_dir / f"{name}-{time.time_ns()}.log"
    command = [sys.executable, "-m", "flashsale.cli", *arguments]
    return Child(name, command, log_path=log_path, environment=stack.environment, cwd=ROOT)


async def _finish(child: Child) -> None:
    if await child.wait():
        raise child.failure(f"ended with {child.returncode}")


def _locust(stack: Stack, sale: Sale, product_id: int, buyers_file: Path, history: Path, summary_file: Path) -> Child:
    options = {
        "--host": stack.base_url,
        "-u": PLAYERS,
        "-r": PLAYERS,
        "--buyers-file": buyers_file,
        "--product": product_id,
        "--arrive-s": sale.seconds,
        "--persistence": PERSISTENCE,
        "--persist-s": PERSIST_S,
        "--arrival-seed": sale.seed,
        "--history": history,
        "--summary": summary_file,
    }
    flat = [str(part) for option in options.items() for part in option]
    return Child(
        "load generator",
        [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", "loadtest/stampede.py", *flat],
        log_path=stack.log_dir / "locust.log",
        environment={name: value for name, value in os.environ.items() if not name.startswith("PYTHONPATH")},
        cwd=ROOT,
    )


async def _watch(
    console: Console, pool: asyncpg.Pool[asyncpg.Record], load: Child, product_id: int, units: int
) -> None:
    """Show the sale until the load generator has ended and the last order is final."""
    began_s = time.monotonic()
    shown_s = 0.0
    with Live(console=console, refresh_per_second=4) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            seen = await _look(pool, product_id)
            elapsed_s = time.monotonic() - began_s
            if live is not None:
                live.update(_view(seen, units, elapsed_s))
            elif elapsed_s - shown_s >= 2 * REFRESH_S or not shown_s:
                shown_s = elapsed_s
                states = ", ".join(f"{count:,} {status}" for status, count in sorted(seen.orders.items()))
                line = f"  {elapsed_s:4.1f} s: stock {seen.free:,}, jobs {seen.jobs:,}; {states}"
                console.print(line, soft_wrap=True)
            open_orders = sum(count for status, count in seen.orders.items() if OrderStatus(status) not in FINAL)
            if load.returncode is not None and not open_orders:
                return
            if elapsed_s > DEADLINE_S:
                raise ChildFailed(f"{open_orders} orders were not final after {DEADLINE_S:g} s")
            await asyncio.sleep(REFRESH_S)


async def _look(pool: asyncpg.Pool[asyncpg.Record], product_id: int) -> Seen:
    orders = await pool.fetch(FIGURES["orders_by_status"].text)
    jobs = await pool.fetch(FIGURES["jobs_by_queue"].text)
    free = await pool.fetchval("SELECT free FROM product_live WHERE product_id = $1", product_id)
    return Seen(
        orders={row["status"]: row["orders"] for row in orders},
        jobs=sum(row["jobs"] for row in jobs if row["queue"] != "maintenance"),
        free=free,
    )


def _view(seen: Seen, units: int, elapsed_s: float) -> Table:
    table = Table(title=f"the sale, {elapsed_s:.1f} s", title_justify="left", min_width=60)
    table.add_column("what")
    table.add_column("now", justify="right")
    width = 30
    filled = round(width * seen.free / units)
    table.add_row("stock", f"{'█' * filled}{'░' * (width - filled)} {seen.free:,}")
    table.add_row("jobs waiting or running", f"{seen.jobs:,}")
    for status in OrderStatus:
        if count := seen.orders.get(status.value):
            table.add_row(f"orders {status.value}", f"{count:,}")
    return table


async def _outcome(pool: asyncpg.Pool[asyncpg.Record], product_id: int) -> dict[str, Any]:
    query = load("queries/audit.sql")["outcome_of_sale"]
    row = await pool.fetchrow(query.text, product_id)
    if row is None:
        raise AssertionError
    return dict(row)


def _results(sale: Sale, outcome: dict[str, Any], summary: dict[str, float], memory: dict[str, int]) -> Table:
    table = Table("figure", "value", title="result", title_justify="left")
    table.add_row("units for sale / buyers", f"{sale.units:,} / {sale.buyers:,}")
    table.add_row(
        "accepted / confirmed / declined",
        " / ".join(f"{outcome[name]:,}" for name in ("accepted", "confirmed", "declined")),
    )
    table.add_row("units free at the end", f"{outcome['free']:,}")
    for label, name in (
        ("buys sent (retries and persistent buyers included)", "buys_sent"),
        ("sold-out answers", "sold_out_answers"),
        ("answers 429 / 503 / other 5xx", ""),
        ("sold out after", "sold_out_after_s"),
    ):
        if not name:
            value = " / ".join(
                f"{summary.get(part, 0):,}" for part in ("answers_429", "answers_503", "5xx_other_than_503")
            )
        elif name.endswith("_s"):
            value = f"{summary.get(name, 0):.2f} s"
        else:
            value = f"{summary.get(name, 0):,}"
        table.add_row(label, value)
    for label, name in (
        ("buy, from intended arrival", "buy_from_intended_ms"),
        ("buy, from sending", "buy_from_sent_ms"),
    ):
        percentiles = " / ".join(f"{summary.get(f'{name}_{p}', 0):,.0f}" for p in ("p50", "p95", "p99"))
        table.add_row(f"{label}: p50 / p95 / p99", f"{percentiles} ms")
    finals = " / ".join(f"{outcome[f'final_{p}_s'] or 0:.1f}" for p in ("p50", "p95", "p99"))
    table.add_row("202 to final: p50 / p95 / p99", f"{finals} s")
    parts = ", ".join(f"{role} {size / MIB:.0f}" for role, size in sorted(memory.items()))
    table.add_row("memory of the stack (PSS)", f"{sum(memory.values()) / MIB:.0f} MiB ({parts})")
    return table
