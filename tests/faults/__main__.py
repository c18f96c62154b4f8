"""Break things in mid-sale and show that nothing was lost: `nox -s faults`, `nox -s soak`."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from flashsale.demo.sale import Sale
from flashsale.local.stack import Stack
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
from tests.faults.cells import CELLS
from tests.faults.many_products import many_products
from tests.faults.pressure import flood, overload, rebuild, stampede
from tests.faults.raised import raised
from tests.faults.scene import DEADLINE_S, Cell, Result, play, wait_for_postgres
from tests.faults.steps import SCENARIOS, Scenario, killed_at, rigged, steps_of

SIMULATOR = {"FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "1", "FLASHSALE_LOG__LEVEL": "warning"}

SOAK_UNITS = 300
QUIET_S = 30.0
"""How long, after the last sale, the traces of processes that were killed in it may take to go."""

LEFT = """
SELECT
    (SELECT count(*) FROM gate_returns) AS "unreturned orders",
    (SELECT count(*) FROM orders WHERE due_at IS NOT NULL) AS "orders that are not final",
    (SELECT count(*) FROM units AS u INNER JOIN orders AS o ON u.order_id = o.order_id WHERE o.status <> 'confirmed')
        AS "units of ended orders",
    (SELECT count(*) FROM procrastinate_jobs WHERE queue_name <> 'maintenance' AND status = 'doing') AS "jobs being done",
    (SELECT count(*) FROM procrastinate_jobs WHERE queue_name <> 'maintenance' AND status = 'todo') AS "jobs waiting"
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Break things in mid-sale and show that nothing was lost."""
    configure_logs(LogSettings(level="error"))


@main.command(epilog='Example: python -m tests.faults matrix --cell "Postgres killed" --seed 3 --keep postgres-3')
@click.option("--cell", "names", multiple=True, help="Only cells whose name contains this; may be repeated.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Only this seed; may be repeated.")
@click.option("--seeds", "count", type=click.IntRange(1), default=3, show_default=True, help="Seeds 1 to this.")
@click.option("--units", type=click.IntRange(10), default=1000, show_default=True, help="Units for sale.")
@click.option("--buyers", type=click.IntRange(20), default=3000, show_default=True, help="Buyers.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep logs, histories and data of each run below this.")
def matrix(
    names: tuple[str, ...], seeds: tuple[int, ...], count: int, units: int, buyers: int, keep: Path | None
) -> None:
    """Run every fault with several seeds, each in a sale on a fresh stack; exit code 0 only if everything held.

    The seed decides when the fault happens, to which process, and what is written; it is printed with each row, and
    `--cell NAME --seed N` plays that row again.
    """
    cells = [cell for cell in CELLS if not names or any(name.lower() in cell.name.lower() for name in names)]
    if not cells:
        sys.exit(f"No such cell; there are: {', '.join(cell.name for cell in CELLS)}.")
    console = Console(width=None if sys.stdout.isatty() else 190)
    results = []
    runs = [(cell, seed) for cell in cells for seed in seeds or range(1, count + 1)]
    for number, (cell, seed) in enumerate(runs, start=1):
        began_s = time.monotonic()
        result = asyncio.run(run_cell(cell, seed, units=units, buyers=buyers, keep=keep))
        results.append(result)
        verdict = "right" if result.right else "WRONG"
        console.print(
            f"{number}/{len(runs)} {cell.name}, seed {seed}: {verdict}, {time.monotonic() - began_s:.0f} s",
            highlight=False,
        )
        for problem in result.problems:
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
    console.print(as_table(results))
    wrong = [f"{result.cell}, seed {result.seed}" for result in results if not result.right]
    console.print(f"{len(results) - len(wrong)} of {len(results)} right{': not ' if wrong else ''}{'; '.join(wrong)}")
    sys.exit(bool(wrong))


@main.command(epilog="Example: python -m tests.faults soak --minutes 2 --seed 7")
@click.option("--minutes", type=click.FloatRange(0.1, 60), default=10, show_default=True, help="How long, about.")
@click.option("--seed", type=int, default=1, show_default=True, help="Which faults come, and in what order.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep logs, histories and data below this.")
def soak(minutes: float, seed: int, keep: Path | None) -> None:
    """Hold one sale after the other on one stack, each with a random fault; then look for whatever was left behind."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        right = asyncio.run(run_soak(keep or Path(folder), minutes * 60, seed, console))
    sys.exit(not right)


PRESSURES = {
    "overload": overload,
    "stampede": stampede,
    "flood": flood,
    "rebuild": rebuild,
    "products": many_products,
    "raised": raised,
}


@main.command(epilog="Example: python -m tests.faults pressure --only flood")
@click.option("--only", type=click.Choice(list(PRESSURES)), help="Only this one.")
def pressure(only: str | None) -> None:
    """Press harder than it can take, flood it with logins, rebuild the gate, and hold 1,500 idle products.

    Exit code 0 only if everything went well.
    """
    console = Console(width=None if sys.stdout.isatty() else 130)
    right = True
    for name, scenario in PRESSURES.items():
        if only in (None, name):
            with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
                went = asyncio.run(scenario(Path(folder), console.print))
            console.print(f"{name}: {'right' if went else 'WRONG'}")
            right = right and went
    sys.exit(not right)


@main.command(epilog='Example: python -m tests.faults steps --scenario "late refund"')
@click.option("--scenario", "names", type=click.Choice([one.name for one in SCENARIOS]), multiple=True)
@click.option("--only", default="", help="Only steps whose text contains this.")
def steps(names: tuple[str, ...], only: str) -> None:
    """Kill a process before and after each step of a payment over Stripe's dialect; the steps are recorded from a run.

    Exit code 0 only if every order, the provider's ledger and the audit came out as without the fault.
    """
    console = Console(width=None if sys.stdout.isatty() else 130)
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        chosen = [one for one in SCENARIOS if not names or one.name in names]
        wrong = asyncio.run(run_steps(Path(folder), chosen, only, console))
    sys.exit(wrong)


async def run_steps(folder: Path, scenarios: list[Scenario], only: str, console: Console) -> int:
    """Play each scenario with a kill at each of its steps; returns the number of wrong runs."""
    wrong = met = 0
    async with rigged(folder) as rig:
        for scenario in scenarios:
            said = [step for step in await steps_of(rig, scenario) if only in str(step)]
            console.print(f"{scenario.name}: {len(said)} steps", highlight=False)
            for step, reply in itertools.product(said, (False, True)):
                began_s = time.monotonic()
                try:
                    verdict = "right" if await killed_at(rig, scenario, step, reply=reply) else "not met"
                except (AssertionError, TimeoutError, KeyError) as error:
                    verdict = f"WRONG ({type(error).__name__}: {error})"
                wrong += verdict.startswith("WRONG")
                met += verdict != "not met"
                when = "after" if reply else "before"
                seconds = time.monotonic() - began_s
                console.print(
                    f"  {when} {step}: {verdict}, {seconds:.1f} s", markup=False, highlight=False, soft_wrap=True
                )
        audit = await run_to_audit(rig.stack.environment)
    console.print(audit, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{met} kills, {wrong} wrong", highlight=False)
    return wrong + ("0 violated" not in audit)


async def run_to_audit(environment: dict[str, str]) -> str:
    """Run `flashsale audit`; returns its violations and its last line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flashsale.cli", "audit", env=environment, stdout=asyncio.subprocess.PIPE
    )
    lines = (await process.communicate())[0].decode().splitlines()
    return "\n".join([*(line for line in lines if "VIOLATED" in line), *lines[-1:]])


async def run_soak(folder: Path, seconds: float, seed: int, console: Console) -> bool:
    """Hold sales for about `seconds`; true if each was right and nothing is left."""
    draw = random.Random(seed)
    right = True
    sizes: dict[str, list[int]] = {}
    began_s = time.monotonic()
    # As many tokens as one sale brings, so that what is remembered of them grows in the first sale only.
    environment = {**SIMULATOR, "FLASHSALE_AUTH__VERIFIED_TOKENS_MAX": str(3 * SOAK_UNITS)}
    async with Stack(folder, port=0, payments=2, environment=environment) as stack:
        for number in itertools.count(1):
            if time.monotonic() - began_s > seconds:
                break
            cell = draw.choice([cell for cell in CELLS if cell.stack is Stack])
            sale = demand(SOAK_UNITS, 3 * SOAK_UNITS, number)
            result = await play(stack, cell, seed * 1000 + number, sale, folder / f"sale-{number}")
            right = right and result.right
            for role, size in stack.pss_bytes().items():
                sizes.setdefault(role, []).append(size)
            elapsed_s = time.monotonic() - began_s
            verdict = "right" if result.right else "WRONG"
            console.print(f"{elapsed_s:4.0f} s: sale {number}, {cell.name}: {verdict}", highlight=False)
            for problem in result.problems:
                console.print(problem, markup=False, highlight=False, soft_wrap=True)
        left = await left_behind(stack)
        quiet_by_s = time.monotonic() + QUIET_S
        while any(left.values()) and time.monotonic() < quiet_by_s:
            await asyncio.sleep(1)
            left = await left_behind(stack)
    table = Table(*("role", "first MiB", "median", "most", "last"), title="memory after each sale (PSS)")
    for role, series in sorted(sizes.items()):
        figures = (series[0], statistics.median(series), max(series), series[-1])
        table.add_row(role, *(f"{figure / 2**20:.0f}" for figure in figures))
    console.print(table)
    console.print(f"left behind: {', '.join(f'{count} {what}' for what, count in left.items())}", highlight=False)
    return right and not any(left.values())


async def left_behind(stack: Stack) -> dict[str, int]:
    """Count what nobody will look after any more; each must be 0."""
    connection = await wait_for_postgres(stack)
    async with Redis.from_url(stack.environment["FLASHSALE_REDIS__URL"]) as redis:
        try:
            found = await connection.fetchrow(LEFT)
            leases = [await redis.zcard(key) async for key in redis.scan_iter("flashsale:*:leases")]
        finally:
            await connection.close()
    return {**dict(found or {}), "leases": sum(leases)}


async def run_cell(cell: Cell, seed: int, *, units: int, buyers: int, keep: Path | None) -> Result:
    """Start a stack, play the sale with the fault, stop everything."""
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) if keep is None else keep / f"{cell.name}-{seed}".replace(" ", "-")
        stack = cell.stack(
            folder,
            payments=2,
            port=0,
            environment={**SIMULATOR, "FLASHSALE_SIMULATOR__SEED": str(seed), **cell.environment},
        )
        async with stack:
            sale = demand(units, buyers, seed, cell.deadline_s)
            return await play(stack, cell, seed, sale, folder / "sale")


def demand(units: int, buyers: int, seed: int, deadline_s: float = DEADLINE_S) -> Sale:
    """Return a sale whose demand lasts until every unit is confirmed, or until 30 s before the deadline."""
    return Sale(
        units=units,
        buyers=buyers,
        seconds=6,
        seed=seed,
        players=150,
        persistence=0.2,
        persist_s=deadline_s - 30,
        follow_s=deadline_s,
    )


def as_table(results: list[Result]) -> Table:
    """Make the matrix: one row per cell over its seeds; counts are sums, times the median and the worst."""
    table = Table(title="kill matrix; times in seconds: median (worst)", title_justify="left")
    table.add_column("fault")
    for name in ("seeds", "accepted", "confirmed", "lost", "leaked", "oversold", "wrongly charged", "other violations"):
        table.add_column(name, justify="right")
    for name in ("fault to 202", "repair to 202", "stuck final", "gate loaded"):
        table.add_column(name, justify="right")
    for cell in dict.fromkeys(result.cell for result in results):
        rows = [result for result in results if result.cell == cell]
        others = {"I1", "I2", "I4", "I7", "I12"}
        table.add_row(
            cell,
            ",".join(str(row.seed) for row in rows),
            *(f"{sum(row.outcome[name] for row in rows):,}" for name in ("accepted", "confirmed")),
            *(
                str(sum(getattr(row, name) for row in rows))
                for name in ("lost", "leaked", "oversold", "double_charged")
            ),
            str(sum(count for row in rows for name, count in row.violated.items() if name not in others)),
            *(
                _times([getattr(row, name) for row in rows])
                for name in ("fault_to_202_s", "repair_to_202_s", "stuck_final_s", "gate_loaded_s")
            ),
        )
    return table


def _times(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.1f} ({max(known):.1f})" if known else "-"


if __name__ == "__main__":
    main()
