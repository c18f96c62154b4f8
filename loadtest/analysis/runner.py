"""Makes the runs of an analysis one after the other, and writes a result file for each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import psutil
from redis.exceptions import RedisError

from analysis import measure
from analysis.baseline import Baseline
from analysis.crowd import LIMIT, buyers_of, send, units_of
from analysis.plan import groups
from analysis.product import OURS, Ours
from analysis.resources import Watch
from analysis.results import Run, latency, write
from analysis.stage import until_at_rest, until_orders
from analysis.verdict import judge
from flashsale.domain.errors import Unavailable
from flashsale.local.children import ChildFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from analysis.plan import Job, Size
    from analysis.stage import Running

SOLD_BEFORE = 1 / 3
"""A run is disturbed once this share of the units is in orders, ..."""
DISTURB_AT = 0.5
"""... or once this share of the crowd's time is over since the first order."""
LONGER_S = 60.0
"""A run that takes so much longer than it may is given up."""
PREFIX = "analysis-"
"""Of temporary folders; the process that made one follows."""
BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, RedisError, Unavailable)
"""What a server that has failed raises in the analysis itself."""


def approach(name: str, folder: Path, *, port: int) -> Running:
    """Return an approach, to be entered."""
    return Ours(folder, port=port) if name == OURS else Baseline(folder, name, port=port)


async def run_all(
    jobs: Sequence[Job], size: Size, directory: Path, *, port: int, said: Callable[[Job, Run], None]
) -> None:
    """Make runs, each written into `directory`; `said` is told of each.

    Raises:
        ChildFailed: if an approach or the load generator fails; nothing is left running then.
        OSError: if a result cannot be written.
    """
    for some in groups(jobs):
        await _run_group(some, size, directory, port=port, said=said)


async def _run_group(
    jobs: Sequence[Job],
    size: Size,
    directory: Path,
    *,
    port: int,
    said: Callable[[Job, Run], None],
) -> None:
    """Make the runs of an approach; it is started again after a run that left it work to do."""
    left = list(jobs)
    while left:
        with workplace(directory) as folder:
            async with approach(left[0].approach, folder / "stage", port=port) as running:
                accounts = await running.buyers(size.buyers)
                idle = True
                while left and idle:
                    job = left.pop(0)
                    async with asyncio.timeout(job.expected_s(size) + size.settle_s + LONGER_S):
                        run = await run_once(running, job, size, accounts, folder / job.name)
                    write(directory / "runs" / f"{run.name}.json", run)
                    said(job, run)
                    # Orders that are stuck are nobody's work, so they do not disturb the next run.
                    idle = run.ended != "busy" and not (run.samples and run.samples[-1].queued)


@contextlib.contextmanager
def workplace(directory: Path) -> Iterator[Path]:
    """Give a temporary folder; of a failure the logs stay, in `failed` below `directory`.

    Folders of analyses that were killed are deleted first.

    Raises:
        ChildFailed: if a server or an approach fails; its text names the logs that stay.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        maker = old.name.removeprefix(PREFIX).partition("-")[0]
        if maker.isdecimal() and not psutil.pid_exists(int(maker)):
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        try:
            yield folder
        except (ChildFailed, TimeoutError, *BROKEN) as error:
            kept = directory / "failed"
            shutil.rmtree(kept, ignore_errors=True)
            for log in folder.rglob("*.log"):
                target = kept / log.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(log, target)
            said = str(error).replace(str(folder), str(kept)) or "A run took too long"
            if not isinstance(error, ChildFailed):
                said = f"{said}: {type(error).__name__} (logs: {kept})"
            raise ChildFailed(said) from error


async def run_once(running: Running, job: Job, size: Size, accounts: list[dict[str, str]], folder: Path) -> Run:
    """Send a crowd to an approach that runs, disturb it in mid-sale if asked, wait until it is at rest, and judge.

    Raises:
        ChildFailed: if the load generator fails.
    """
    began_s = time.monotonic()
    units = units_of(job.crowd, size)
    await running.put_on_sale(units, limit=LIMIT if job.crowd == "abuse" else None)
    watch = Watch(running)
    await watch.begin()
    async with AsyncExitStack() as ending:
        ending.push_async_callback(watch.stop)
        sending = asyncio.create_task(send(running, job, size, accounts, folder))
        ending.push_async_callback(_cancel, sending)
        disturbed = await _disturb(running, job, size, units) if job.disturbance != "none" else None
        sent = await sending
        ended = await until_at_rest(running, longest_s=size.settle_s)
        resources = await watch.end()
    orders = await running.orders()
    offered = (await running.look()).stock
    buys, began_at = sent.history.buys, sent.pulse["began_at"]
    pressed = measure.presses(buys)
    accepted, sold_out, given_up = measure.outcomes(pressed)
    return Run(
        approach=job.approach,
        crowd=job.crowd,
        disturbance=job.disturbance,
        repetition=job.repetition,
        seed=job.seed,
        began_at=began_at,
        units=units,
        buyers=buyers_of(job.crowd, size),
        crowd_s=size.crowd_s(job.crowd),
        took_s=round(time.monotonic() - began_s, 2),
        disturbed_s=None
        if disturbed is None
        else (round(disturbed[0] - began_at, 2), round(disturbed[1] - began_at, 2)),
        first_answer=latency([measure.waited_ms(tries[0]) for tries in pressed]),
        to_confirmed=latency(measure.to_confirmed_ms(buys, orders)),
        accepted=accepted,
        sold_out=sold_out,
        given_up=given_up,
        answers=measure.answers(buys),
        orders=measure.states(orders),
        confirmed_per_s=measure.confirmed_per_s(buys, orders),
        seconds=measure.by_second(pressed, began_at),
        samples=measure.samples(watch.looks, sent.pulse["users"], began_at),
        generator=measure.generator(sent.pulse),
        resources=resources,
        ended=ended,
        verdict=judge(
            allotment=units,
            offered=offered,
            orders=orders,
            history=sent.history,
            ledger=await running.ledger(),
        ),
        steps=measure.steps(sent) if job.crowd == "ramp" else (),
        abuse=measure.abuse(sent, pressed, orders, buyers=buyers_of("abuse", size)) if job.crowd == "abuse" else None,
    )


async def _disturb(running: Running, job: Job, size: Size, units: int) -> tuple[float, float]:
    """Disturb an approach in mid-sale; returns from when to when, in Unix time."""
    await until_orders(running, max(1, int(units * SOLD_BEFORE)), longest_s=size.crowd_s(job.crowd) * DISTURB_AT)
    began = time.time()
    await running.disturb(job.disturbance, silent_s=size.silent_s)
    return began, time.time()


async def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
