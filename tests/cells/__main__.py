"""Sell in two cells and kill each of them once: `python -m tests.cells`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.cells.shop import two_cells
from tests.cells.trial import trial


@click.command()
@click.option("--units", default=100, show_default=True, help="Units of each product.")
@click.option("--buyers", default=300, show_default=True, help="Buyers of each product.")
@click.option("--over-s", default=6.0, show_default=True, help="Seconds over which they arrive.")
def main(units: int, buyers: int, over_s: float) -> None:
    """Run two stacks behind nginx, and kill first cell 1, then cell 0, in the middle of both sales."""
    sys.exit(asyncio.run(_run(units, buyers, over_s)))


async def _run(units: int, buyers: int, over_s: float) -> int:
    console = Console(highlight=False, width=160)
    table = Table(
        "killed", "buyers of", "accepted", "refused", "undecided", "asked again", "p50 ms", "p99 ms", "client late ms"
    )
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        async with two_cells(Path(folder)) as shop:
            for dead in (1, 0):
                done = await trial(shop, dead=dead, units=units, buyers=buyers, over_s=over_s)
                wrong += [f"cell {dead} killed: {one}" for one in done.faults(units, buyers)]
                for name, crowd in (
                    (f"cell {1 - dead}, both live", done.alone),
                    (f"cell {1 - dead}", done.living),
                    (f"cell {dead}, killed", done.struck),
                ):
                    table.add_row(
                        "-" if crowd is done.alone else f"cell {dead}",
                        name,
                        str(crowd.accepted),
                        str(crowd.refused.total()),
                        str(crowd.undecided),
                        str(crowd.errors.total()),
                        f"{crowd.at(0.5):.1f}",
                        f"{crowd.at(0.99):.1f}",
                        f"{crowd.late_s * 1000:.0f}",
                    )
                console.print(done.audit)
    console.print(table)
    for one in wrong:
        console.print(one)
    return int(bool(wrong))


if __name__ == "__main__":
    main()
