"""Speed, each figure with a control of the same minute and the invariants that held: `nox -s bench`.

The client that presses (press.py) runs in this process, those that watch (watchers.py) and the servers in others; all share
the machine.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop
from rich.console import Console

from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
from tests.bench.accept_function import accept_function
from tests.bench.accepts import accepts
from tests.bench.bench import Bench
from tests.bench.figures import as_json, as_table
from tests.bench.jobs import held, jobs
from tests.bench.sale import memory, sale
from tests.bench.sold_out import crowded, latency, sold_out
from tests.bench.streams import streams, streams_100k, streams_most

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MEASURES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "sold-out": sold_out,
    "latency": latency,
    "crowded": crowded,
    "accepts": accepts,
    "accept-function": accept_function,
    "jobs": jobs,
    "payments-held": held,
    "sale": sale,
    "memory": memory,
    "streams": streams,
    "streams-19k": streams_most,
    "streams-100k": streams_100k,
}


@click.command(epilog="Example: python -m tests.bench --only sold-out --rounds 5")
@click.option("--only", "names", multiple=True, type=click.Choice(list(MEASURES)), help="Only this; may be repeated.")
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Runs of each figure.")
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=4, show_default=True, help="Length of a run.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the figures to this file (JSON), and plots to the same directory (SVG).",
)
def main(names: tuple[str, ...], rounds: int, seconds: float, out: Path | None) -> None:
    """Measure speed against controls in the same run; exit code 0 only if the invariants held."""
    configure_logs(LogSettings(level="error"))
    console = Console(width=None if sys.stdout.isatty() else 170)
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), console, rounds=rounds, seconds=seconds)
        for name in names or MEASURES:
            bench.say(f"measuring {name}")
            uvloop.run(MEASURES[name](bench))
    console.print(as_table(bench.figures))
    for name, verdict in bench.audits.items():
        bench.say(f"{name}: {verdict}")
    if out is not None:
        out.write_text(json.dumps(as_json(bench), indent=2) + "\n")
        for name, plot in bench.plots.items():
            out.with_name(f"{out.stem}-{name}.svg").write_text(plot.svg())
    sys.exit(any(", 0 violated" not in verdict for verdict in bench.audits.values()))


if __name__ == "__main__":
    main()
