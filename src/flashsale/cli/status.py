"""The sale on one screen."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from flashsale.cli.client import TOKEN, open_api
from flashsale.cli.group import main, print_result, process_settings, run_command

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from rich.console import Group

    from flashsale.http.routes.status import StatusOut

EVERY_S = 2.0
"""Time between two reads of `--watch`."""


@main.command(
    epilog="Example: FLASHSALE_TOKEN=$(flashsale token admin@example.com) flashsale status --url https://shop.example"
)
@click.option("--url", help=f"URL of the API, which is asked with the administrator's token in {TOKEN}.")
@click.option("--watch", is_flag=True, help="Look again every two seconds until Ctrl-C.")
@click.option("--json", "machine", is_flag=True, help="Print one JSON document a line instead of tables.")
def status(url: str | None, watch: bool, machine: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Show what sells, what waits, what is wrong and what to do.

    Without --url the command reads Postgres and the gate, which the environment names. Only the API knows how many buys
    were refused.
    """
    import msgspec

    looks = _asked(url) if url else _read()

    async def run() -> None:
        # Closed here: what a generator holds open must not outlive the loop.
        async with aclosing(looks):
            if machine:
                async for now in looks:
                    print_result(msgspec.json.encode(now).decode())
                    if not watch:
                        return
            elif watch:
                await _watch(looks)
            else:
                from rich.console import Console

                Console(highlight=False).print(screen(await anext(looks)))

    run_command(run())


async def _watch(looks: AsyncIterator[StatusOut]) -> None:
    from rich.live import Live

    with Live(auto_refresh=False, screen=sys.stdout.isatty()) as live:
        async for now in looks:
            live.update(screen(now), refresh=True)


async def _read() -> AsyncGenerator[StatusOut, None]:
    """Yield the sale as Postgres and the gate show it, every EVERY_S seconds."""
    from flashsale.bootstrap.commands import open_status
    from flashsale.http.routes.status import status_out

    async with open_status(process_settings("status")) as read:
        while True:
            yield status_out(await read(), None)
            await asyncio.sleep(EVERY_S)


async def _asked(url: str) -> AsyncGenerator[StatusOut, None]:
    """Yield the sale as the API shows it, every EVERY_S seconds."""
    import msgspec

    from flashsale.http.routes.status import StatusOut

    async with open_api(url) as api:
        while True:
            yield msgspec.convert(await api("GET", "/api/admin/status"), StatusOut)
            await asyncio.sleep(EVERY_S)


def screen(now: StatusOut) -> Group:
    """Render the screen: products, the states of their orders, problems."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    products = Table("product", title=f"Sale at {time.strftime('%H:%M:%S')}", title_justify="left", title_style="bold")
    for name in ("free", "in payment", "sold", "of", "revenue", "gate"):
        products.add_column(name, justify="right")
    for one in now.products:
        gate = f"{one.gate_stock} + {one.gate_leases} leased" if one.gate_loaded else "bypassed"
        name = f"{one.id} {one.name}" + (" (paused)" if one.paused else "")
        numbers = (one.free, one.in_payment, one.sold, one.allotment)
        products.add_row(Text(name), *map(str, numbers), f"{one.revenue} {one.currency}", gate)
    facts = Table.grid(padding=(0, 2))
    for what, told in (
        ("per second", f"{now.accepted_per_s:g} orders accepted, {now.confirmed_per_s:g} confirmed"),
        ("orders", _counts(now.orders)),
        ("longest in a state", ", ".join(f"{state} {age_s:.0f} s" for state, age_s in now.oldest_s.items()) or "none"),
        ("buys answered", "ask the API: --url" if now.buys is None else _counts(now.buys)),
        ("payments, 5 minutes", _counts(now.payments)),
        ("jobs", f"{_counts(now.jobs)}; the oldest is {now.oldest_job_s:.0f} s old; {now.workers} workers"),
    ):
        facts.add_row(Text(what, style="bold"), told)
    wrong = Table.grid(padding=(0, 2))
    for problem in now.problems:
        wrong.add_row(Text("!", style="bold red"), Text(f"{problem.what} {problem.todo}"))
    if not now.problems:
        wrong.add_row(Text("Nothing is wrong.", style="green"))
    return Group(products, facts, wrong)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count) or "none"
