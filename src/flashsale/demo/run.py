"""The demo: a whole sale on one machine, shown live, measured and audited."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from flashsale.demo.sale import Sale, SaleRun, Seen, open_sale
from flashsale.domain.orders import OrderStatus
from flashsale.local.stack import Stack
from flashsale.runtime.outputs import progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REFRESH_S = 0.5
DEADLINE_S = 180.0
MIB = 2**20

LATE_MS = 50.0
"""Delay of the load generator that the table mentions."""

NEXT = """\
Next:
  flashsale up                                    the stack, until Ctrl-C; docs/tutorial/first-sale.md buys on it
  flashsale status --watch                        what sells, what waits, what is wrong (in a second terminal)
  flashsale demo --units 100 --buyers 20000       more buyers for fewer units
  python3 -m nox -s faults                        the same sale while its parts are killed"""


async def run_demo(sale: Sale, *, data_dir: Path, api: int, environment: Mapping[str, str]) -> int:
    """Run the sale and return the exit code: 0 only if every invariant holds and each unit is confirmed or free."""
    # Without a terminal the width keeps each figure on one line.
    stdout = progress()
    console = Console(file=stdout, width=None if stdout.isatty() else 110)
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
        async with open_sale(stack, sale, data_dir) as run:
            say(f"creating {sale.buyers:,} buyers, each with a token")
            await run.prepare()
            say(
                f"{sale.buyers:,} buyers arrive within {sale.seconds:g} s for {sale.units:,} units at {sale.price} USD;"
                f" {sale.persistence:.0%} of the buyers who are told `sold out` try again for {sale.persist_s:g} s"
            )
            say("default limits: 20 buys per second and user, no limit per minute")
            run.begin()
            await _watch(console, run)
            if run.load.returncode:
                console.print(run.load.failure(f"ended with {run.load.returncode}"))
            outcome = await run.outcome()
            console.print(_results(sale, outcome, run.summary(), stack.pss_bytes()))
            audit_code, findings = await run.audit()
        console.print(findings, highlight=False, markup=False, soft_wrap=True)
        say("stopping")
    accounted = outcome["confirmed"] + outcome["free"] == sale.units
    if not accounted:
        console.print(f"{sale.units - outcome['confirmed'] - outcome['free']} units are neither confirmed nor free")
    right = accounted and not audit_code and run.load.returncode == 0
    console.print(f"[{time.monotonic() - began_s:5.1f} s] {'the sale succeeded' if right else 'THE SALE FAILED'}")
    if right:
        console.print(NEXT, highlight=False, markup=False, soft_wrap=True)
    return int(not right)


async def _watch(console: Console, run: SaleRun) -> None:
    """Show the sale until the load generator has ended and the last order is final."""
    shown_s = 0.0
    with Live(console=console, refresh_per_second=4) if console.is_terminal else contextlib.nullcontext() as live:

        def show(seen: Seen) -> None:
            nonlocal shown_s
            if not seen.elapsed_s:
                return  # the load generator starts
            if live is not None:
                live.update(_view(seen, run.sale.units))
            elif seen.elapsed_s - shown_s >= 2 * REFRESH_S or not shown_s:
                shown_s = seen.elapsed_s
                states = ", ".join(f"{count:,} {status}" for status, count in sorted(seen.orders.items()))
                line = f"  {seen.elapsed_s:4.1f} s: stock {seen.free:,}, jobs {seen.jobs:,}; {states or 'no orders'}"
                console.print(line, soft_wrap=True)

        await run.watch(show, every_s=REFRESH_S, deadline_s=DEADLINE_S)


def _view(seen: Seen, units: int) -> Table:
    table = Table(title=f"the sale, {seen.elapsed_s:.1f} s", title_justify="left", min_width=60)
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


def lateness(summary: Mapping[str, float]) -> str:
    """Say how late the load generator sent, if that is a large part of the latency; empty if it is not."""
    intended_ms, sent_ms = (summary.get(f"buy_from_{one}_ms_p99", 0) for one in ("intended", "sent"))
    late_ms = intended_ms - sent_ms
    if late_ms < LATE_MS or late_ms < sent_ms / 2:
        return ""
    return f" (the load generator was late: {late_ms:,.0f} ms at p99)"


def _results(sale: Sale, outcome: dict[str, Any], summary: dict[str, float], memory: dict[str, int]) -> Table:
    table = Table("figure", "value", title="result", title_justify="left")
    table.add_row("units for sale / buyers", f"{sale.units:,} / {sale.buyers:,}")
    table.add_row(
        "accepted / confirmed / declined",
        " / ".join(f"{outcome[name]:,}" for name in ("accepted", "confirmed", "declined")),
    )
    table.add_row("units free at the end", f"{outcome['free']:,}")
    for label, name in (
        ("buys sent, including retries", "buys_sent"),
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
        table.add_row(f"{label}: p50 / p95 / p99", f"{percentiles} ms{lateness(summary) if 'intended' in name else ''}")
    finals = " / ".join(f"{outcome[f'final_{p}_s'] or 0:.1f}" for p in ("p50", "p95", "p99"))
    table.add_row("202 to final: p50 / p95 / p99", f"{finals} s")
    parts = ", ".join(f"{role} {size / MIB:.0f}" for role, size in sorted(memory.items()))
    table.add_row("memory of the stack (PSS)", f"{sum(memory.values()) / MIB:.0f} MiB ({parts})")
    return table
