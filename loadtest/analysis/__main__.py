"""Run every approach with the same crowds and judge all by one oracle: `nox -s analysis`."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop
from rich.console import Console

from analysis.baseline import BASELINES
from analysis.crowd import BROKEN_SHARE, LATE_S
from analysis.machine import lines, machine, processes, versions
from analysis.measure import GENERATOR_LATE_MS, GENERATOR_LATE_SHARE
from analysis.page import write_page
from analysis.plan import QUICK, WHOLE, Job, forecast_s, groups, jobs
from analysis.product import OURS
from analysis.results import CROWDS, DISTURBANCES, BadResults, Head, Run, read_head, read_results, write
from analysis.runner import run_all
from analysis.stage import PROVIDER
from analysis.summary import faults_of, tables
from flashsale.local.binaries import MissingBinary
from flashsale.local.children import ChildFailed
from flashsale.local.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from analysis.plan import Size

APPROACHES = (*BASELINES, OURS)
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Progress:
    """Says how long the runs will take, what each gave, and how much time is left."""

    def __init__(self, console: Console, planned: int, todo: Sequence[Job], size: Size, directory: Path) -> None:
        """Nothing is done yet: say how long it will take."""
        self._console = console
        self._size = size
        self._todo = list(todo)
        self._number = 0
        self._began_s = time.monotonic()
        expected_s = forecast_s(todo, size)
        self._say(
            f"{len(todo)} of {planned} runs are to be made, in {len(groups(todo))} starts of an approach: about "
            f"{expected_s / 60:.0f} minutes on two free processors, until {_clock(expected_s)}. Results: {directory}"
        )

    def said(self, job: Job, run: Run) -> None:
        """Take note of a run; what is left takes as much longer than expected as what has been made took."""
        self._number += 1
        took_s = time.monotonic() - self._began_s
        made_s = forecast_s(self._todo[: self._number], self._size)
        left_s = (forecast_s(self._todo, self._size) - made_s) * took_s / made_s
        wrong = "right" if run.verdict.right else faults_of([run])[0].partition(": ")[2]
        busy = "; still at work at its end" if run.ended == "busy" else ""
        self._say(
            f"{self._number}/{len(self._todo)} {job.name.replace('.', ' ')}: {run.confirmed:,} confirmed, "
            f"first answer p95 {run.first_answer.p95_ms:,.0f} ms; {wrong}{busy}; {run.took_s:.0f} s; "
            f"about {left_s / 60:.0f} min left, until {_clock(left_s)}"
        )

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def _clock(after_s: float) -> str:
    return f"{datetime.fromtimestamp(time.time() + after_s, UTC).astimezone():%H:%M}"


@click.command(epilog="Example: python -m analysis --quick --approach naive --approach flashsale")
@click.option("--quick", is_flag=True, help="Small crowds, once: under 6 minutes on 2 cores.")
@click.option("--approach", "names", multiple=True, type=click.Choice(APPROACHES), help="Only these; can be repeated.")
@click.option("--crowd", "crowds", multiple=True, type=click.Choice(CROWDS), help="Only these; can be repeated.")
@click.option(
    "--disturbance", "disturbances", multiple=True, type=click.Choice(DISTURBANCES), help="Only these; can be repeated."
)
@click.option("--repetitions", type=click.IntRange(1, 100), help="Default: 3, with --quick 1.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the order and the arrivals.")
@click.option("--price-per-cpu-hour", type=click.FloatRange(min=0), help="Adds the cost of 1,000 confirmed orders.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Of the approach; 0: any.")
@click.option(
    "--results",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".flashsale/analysis"),
    show_default=True,
    help="Where the result files are; an analysis that was interrupted goes on there.",
)
@click.option("--fresh", is_flag=True, help="Delete the results that are there, and begin again.")
@click.option("--report-only", is_flag=True, help="Run nothing; show the results that are there.")
@click.option(
    "--docs", is_flag=True, help="Write the page to docs/ and its short table to README.md, not next to the results."
)
def main(
    *,
    quick: bool,
    names: tuple[str, ...],
    crowds: tuple[str, ...],
    disturbances: tuple[str, ...],
    repetitions: int | None,
    seed: int,
    price_per_cpu_hour: float | None,
    port: int,
    directory: Path,
    fresh: bool,
    report_only: bool,
    docs: bool,
) -> None:
    """Send the same crowds to each approach, and judge all by one oracle.

    Ends with 1 if something failed, or if the product's verdict is not zero everywhere.
    """
    console = Console(width=None if sys.stdout.isatty() else 200)
    count = repetitions or (1 if quick else 3)
    try:
        if not report_only:
            # A quick analysis disturbs each approach only once.
            kinds = disturbances or (("none", "redis") if quick else DISTURBANCES)
            planned = jobs(names or APPROACHES, crowds or CROWDS, kinds, repetitions=count, seed=seed)
            _head(directory, planned, quick=quick, seed=seed, count=count, price=price_per_cpu_hour, fresh=fresh)
            _run(console, planned, QUICK if quick else WHOLE, directory, port=port)
        results = read_results(directory)
        page = ROOT / "docs" / "analysis.md" if docs else directory / "analysis.md"
        write_page(results, page, readme=ROOT / "README.md" if docs else None)
        console.print(f"Page: {page}", highlight=False, soft_wrap=True)
    except (ChildFailed, MissingBinary, BadResults, OSError) as error:
        sys.exit(_one_line(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command goes on where it stopped.")
    for table in tables(results):
        console.print(table)
    if faults := faults_of([run for run in results.runs if run.approach == OURS]):
        sys.exit("\n".join(faults))


def _run(console: Console, planned: Sequence[Job], size: Size, directory: Path, *, port: int) -> None:
    todo = [job for job in planned if not (directory / "runs" / f"{job.name}.json").exists()]
    progress = Progress(console, len(planned), todo, size, directory)
    with interruptible():
        uvloop.run(run_all(todo, size, directory, port=port, said=progress.said))


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP interrupt what runs; a shell starts background commands with SIGINT ignored."""
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _head(
    directory: Path,
    planned: Sequence[Job],
    *,
    quick: bool,
    seed: int,
    count: int,
    price: float | None,
    fresh: bool,
) -> None:
    """Write how the analysis is made, and keep what is there of one that was made so.

    Raises:
        BadResults: if what is there was made in another way.
    """
    path = directory / "analysis.json"
    if fresh:
        shutil.rmtree(directory / "runs", ignore_errors=True)
        path.unlink(missing_ok=True)
    before = read_head(directory) if path.exists() else None
    if before is not None and (before.quick, before.seed, before.repetitions) != (quick, seed, count):
        made = f"{'--quick ' if before.quick else ''}--seed {before.seed} --repetitions {before.repetitions}"
        raise BadResults(f"{directory} has results of {made}: give the same, or --fresh, or name another --results.")
    head = Head(
        began_at=time.time() if before is None else before.began_at,
        command=" ".join(["nox -s analysis --", *sys.argv[1:]]),
        seed=seed,
        quick=quick,
        repetitions=count,
        approaches=APPROACHES,
        planned=tuple(job.name for job in planned),
        machine=machine(),
        versions=versions(),
        lines=lines(),
        processes=processes(),
        provider={name.partition("__")[2].lower(): value for name, value in PROVIDER.items()},
        late_s=LATE_S,
        broken_share=BROKEN_SHARE,
        generator_late_ms=GENERATOR_LATE_MS,
        generator_late_share=GENERATOR_LATE_SHARE,
        silent_s=(QUICK if quick else WHOLE).silent_s,
        price_per_cpu_hour=before.price_per_cpu_hour if before is not None and price is None else price,
    )
    write(path, head)


def _one_line(error: Exception) -> str:
    """Return an error in a line: what happened, and the last that the process said."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'A result'}: {error.strerror}"
    first, *more = str(error).splitlines()
    return f"{first}: {more[-1]}" if more and more[-1].strip() else first


if __name__ == "__main__":
    main()
