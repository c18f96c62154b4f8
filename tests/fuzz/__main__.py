"""Generated requests, allowed and not, to the server alone and behind nginx, held against RFC 9112: `nox -s fuzz`.

Each case goes to the server whole, in random pieces and byte by byte; an oracle that shares no code with the server says
what must be answered (oracle.py). Through nginx each answer must belong to the request that nginx took it for. Exit code
1 if anything differs. The same seed makes the same requests.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table

from tests.fuzz.compare import Fuzz, Tally
from tests.fuzz.target import NGINX, nginx, serving

WARM_UP = 300
GROWTH_MB = 8.0


def _resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def fuzz(*, seed: int, seconds: float, cases: int | None, say: Console, behind: bool) -> tuple[Tally, float]:
    """Try cases until the time or their number is up; returns what happened and how many MB the process grew."""
    async with serving() as (app, port):
        with (
            tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder,
            nginx(Path(folder), port) if behind else nullcontext(()) as ports,
        ):
            one = Fuzz(app, port, ports, seed)
            ends_s = time.monotonic() + seconds
            told_s = time.monotonic()
            before_mb = 0.0
            while time.monotonic() < ends_s and (cases is None or one.tally.cases < cases):
                await one.step()
                if one.tally.cases == WARM_UP:
                    before_mb = _resident_mb()
                if time.monotonic() - told_s > 10:
                    told_s = time.monotonic()
                    wrong = sum(map(len, one.tally.differences.values()))
                    say.print(
                        f"{one.tally.cases:,} cases, {one.tally.requests:,} requests, {wrong} differences",
                        highlight=False,
                    )
            await asyncio.sleep(0.1)
            return one.tally, _resident_mb() - before_mb if before_mb else 0.0


def _report(console: Console, tally: Tally, grown_mb: float) -> None:
    table = Table("what", "number", title="fuzz", title_justify="left")
    rows = {
        "cases": tally.cases,
        "requests": tally.requests,
        "accepted": tally.accepted,
        "refused": sum(tally.refused.values()),
        "cases through nginx": tally.behind,
        **{f"answers through nginx: {status}": count for status, count in sorted(tally.behind_answers.items())},
        **{f"refused by {rule}": count for rule, count in tally.refused.most_common()},
    }
    for what, count in rows.items():
        table.add_row(what, f"{count:,}")
    for what, found in tally.differences.items():
        table.add_row(f"DIFFERENCE: {what}", f"{len(found):,}")
    table.add_row("differences", f"{sum(map(len, tally.differences.values())):,}")
    table.add_row("memory", f"{grown_mb:+.1f} MB")
    console.print(table)
    for what, found in tally.differences.items():
        for kind, said, sent in found[:5]:
            console.print(f"{what} ({kind}): {said}\n  {sent!r}", highlight=False, markup=False, soft_wrap=True)


@click.command(epilog="Example: python -m tests.fuzz --seconds 60 --seed 7")
@click.option("--seconds", type=click.FloatRange(1), default=180, show_default=True, help="How long.")
@click.option("--seed", type=int, default=1, show_default=True, help="Which requests.")
def main(seconds: float, seed: int) -> None:
    """Send generated requests and hold the answers against RFC 9112."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    if NGINX is None:
        console.print("nginx is not on PATH (Debian and Ubuntu: apt-get install nginx): the server alone is tried")
    tally, grown_mb = uvloop.run(fuzz(seed=seed, seconds=seconds, cases=None, say=console, behind=NGINX is not None))
    _report(console, tally, grown_mb)
    sys.exit(int(bool(tally.differences) or grown_mb > GROWTH_MB))


if __name__ == "__main__":
    main()
