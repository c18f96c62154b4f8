"""Run every approach with the same crowd: `nox -s analysis`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table

from analysis.crowd import Crowd, Stampede, send
from analysis.resources import Used, watch
from analysis.stage import BASELINES, OURS, run_approach, until_at_rest, until_orders
from analysis.verdict import Verdict, judge
from flashsale.local.binaries import MissingBinary
from flashsale.local.children import ChildFailed

APPROACHES = [*BASELINES, OURS]
FAULTS = ("none", "worker", "redis")


async def run_once(
    name: str, folder: Path, *, units: int, stampede: Stampede, fault: str
) -> tuple[Crowd, Verdict, Used]:
    """Run an approach with a crowd, disturb it once in mid-sale if asked, and judge it."""
    async with run_approach(name, folder, units=units) as running:
        watching = asyncio.create_task(watch(running.pids, running.look))
        sending = asyncio.create_task(send(running, stampede, folder))
        if fault != "none":
            await until_orders(running, units // 3)
            await (running.kill_worker() if fault == "worker" else running.kill_redis())
        crowd = await sending
        await until_at_rest(running, longest_s=40)
        watching.cancel()
        used = await watching
        verdict = judge(
            allotment=units,
            offered=await running.offered(),
            orders=await running.orders(),
            history=crowd.history,
            ledger=await running.ledger(),
        )
    return crowd, verdict, used


@click.command(epilog="Example: python -m analysis --approach naive --approach flashsale --units 200")
@click.option("--approach", "names", multiple=True, type=click.Choice(APPROACHES), help="Only these; can be repeated.")
@click.option("--units", type=click.IntRange(min=3), default=1000, show_default=True)
@click.option("--buyers", type=click.IntRange(min=1), default=5000, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Time of all arrivals."
)
@click.option("--fault", type=click.Choice(FAULTS), default="none", show_default=True, help="What happens in mid-sale.")
def main(names: tuple[str, ...], units: int, buyers: int, seconds: float, fault: str) -> None:
    """Send the same crowd to each approach, and judge all by one oracle."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(
        "approach",
        "confirmed",
        "buy p50",
        "p95",
        "p99",
        "202 to final p95",
        "503",
        *VERDICT,
        "cpu s",
        "MiB",
        "processes",
    )
    stampede = Stampede(buyers=buyers, seconds=seconds)
    try:
        for number, name in enumerate(chosen := names or APPROACHES, 1):
            console.print(f"{number}/{len(chosen)} {name}: {buyers:,} buyers for {units:,} units", highlight=False)
            with tempfile.TemporaryDirectory(prefix="analysis-") as folder:
                crowd, verdict, used = uvloop.run(
                    run_once(name, Path(folder), units=units, stampede=stampede, fault=fault)
                )
            table.add_row(name, *_cells(crowd, verdict, used))
    except (ChildFailed, MissingBinary) as error:
        sys.exit(str(error))
    console.print(table)


COLUMNS_OF_TIME = ("buy p50", "p95", "p99", "202 to final p95")

VERDICT = {
    "oversold": "oversold",
    "lost": "lost",
    "leaked": "leaked",
    "stuck": "stuck",
    "charged_twice": "charged twice",
    "charged_wrongly": "charged wrongly",
    "refused_falsely": "falsely sold out",
}
"""The verdict's columns, by field."""

COLUMNS = ("approach", "confirmed", *COLUMNS_OF_TIME, "503", *VERDICT.values(), "cpu s", "MiB", "processes")


def _cells(crowd: Crowd, verdict: Verdict, used: Used) -> list[str]:
    summary = crowd.summary
    times = [f"{summary.get(f'buy_from_intended_ms_{share}', 0):,.0f} ms" for share in ("p50", "p95", "p99")]
    return [
        f"{summary['confirmed']:,.0f}",
        *times,
        f"{summary.get('202_to_final_ms_p95', 0) / 1000:.1f} s",
        f"{summary['answers_503']:,.0f}",
        *(f"{getattr(verdict, name):,}" for name in VERDICT),
        f"{sum(used.cpu_s.values()):.1f}",
        f"{sum(used.pss_bytes.values()) / 2**20:,.0f}",
        f"{used.processes}",
    ]


if __name__ == "__main__":
    main()
