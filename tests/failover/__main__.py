"""The machine of the primary, and that of the gate, lost in the middle of a sale: `nox -s failover`.

Each sale has the load generator's buyers and streams, and is judged by `flashsale audit` with what the clients saw: every
202 is an order, no version went back, the money is the provider's ledger. The control is the same sale with the guards of a
COMMIT taken away; it must be found wrong.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from rich.console import Console
from rich.table import Table

from flashsale.demo.sale import Sale
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
from tests.failover import restore
from tests.failover.servers import StandbyStack, run_statement
from tests.faults.scene import Cell, Result, Scene, play

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STATEMENT_TIMEOUT_S = 1.0
FROZEN_S = 8.0
"""How long the standby confirms nothing: longer than any time-out of a statement, and than the look-up after it."""

ENVIRONMENT = {
    "FLASHSALE_POSTGRES__STATEMENT_TIMEOUT_S": str(STATEMENT_TIMEOUT_S),
    "FLASHSALE_LOG__LEVEL": "warning",
    "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.3",
    "FLASHSALE_SIMULATOR__DECLINE_RATE": "0.05",
}
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@dataclass(slots=True)
class Loss:
    """What was seen of a loss."""

    frozen_at: float = 0.0
    killed_at: float = 0.0
    waiting: int = 0
    """COMMITs that waited for the standby when the primary was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """A sale in which a machine is lost."""

    name: str
    lose: Callable[[Scene, Loss], Awaitable[None]]
    guarded: bool = True


async def primary_lost(scene: Scene, loss: Loss) -> None:
    """Freeze the standby's receiver, let COMMITs wait, kill the primary, promote the standby."""
    stack = cast("StandbyStack", scene.stack)
    await scene.mid_sale()
    loss.frozen_at = time.time()
    stack.freeze_receiver()
    await asyncio.sleep(FROZEN_S)
    loss.waiting = await run_statement(stack.primary.url, WAITING)
    loss.killed_at = time.time()
    await stack.primary.kill()
    await stack.promote()


async def primary_cut_off(scene: Scene, loss: Loss) -> None:
    """Stop the primary with every session: it takes connections and answers nothing. Promote the standby."""
    stack = cast("StandbyStack", scene.stack)
    await scene.mid_sale()
    loss.frozen_at = loss.killed_at = time.time()
    stack.freeze_receiver()
    stack.cut_off_primary()
    await stack.promote()


async def gate_lost(scene: Scene, loss: Loss) -> None:
    """Kill the gate's server; its replica takes its address over."""
    stack = cast("StandbyStack", scene.stack)
    await scene.mid_sale()
    loss.frozen_at = loss.killed_at = time.time()
    await stack.promote_replica()
    scene.repaired()
    await scene.until_loaded()


DRILLS = [
    Drill(name="primary lost", lose=primary_lost),
    Drill(name="primary lost, control without the guards", lose=primary_lost, guarded=False),
    Drill(name="primary cut off", lose=primary_cut_off),
    Drill(name="gate lost, replica promoted", lose=gate_lost),
]


def told(history: Path, loss: Loss) -> int:
    """Count the orders that buyers were told of while the standby confirmed nothing; a second is left for those under way."""
    buys = [line for line in map(json.loads, history.read_text().splitlines()) if line["kind"] == "buy"]
    return sum(buy["status"] == 202 and loss.frozen_at + 1 < buy["answered_at"] <= loss.killed_at for buy in buys)


async def run_drill(drill: Drill, seed: int, *, units: int, buyers: int, folder: Path) -> tuple[Result, Loss, int]:
    """Hold one sale."""
    loss = Loss()

    async def disturb(scene: Scene) -> None:
        await drill.lose(scene, loss)

    sale = Sale(
        units=units, buyers=buyers, seconds=6, seed=seed, players=60, persistence=0.3, persist_s=60, follow_s=30
    )
    async with StandbyStack(folder, guarded=drill.guarded, environment=ENVIRONMENT) as stack:
        result = await play(stack, Cell(name=drill.name, disturb=disturb), seed, sale, folder / "sale")
    return result, loss, told(folder / "sale" / "history.jsonl", loss)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", default="", help="Only drills whose name matches this pattern.")
@click.option("--seed", type=int, default=1, show_default=True, help="When the loss happens.")
@click.option("--units", type=click.IntRange(50), default=400, show_default=True, help="Units for sale.")
@click.option("--buyers", type=click.IntRange(100), default=1200, show_default=True, help="Buyers.")
@click.option("--pitr", is_flag=True, help="Instead, restore the database to a second before a mistake.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep logs, histories and data below this.")
def main(*, only: str, seed: int, units: int, buyers: int, pitr: bool, keep: Path | None) -> None:
    """Lose machines in mid-sale; exit code 0 only if each sale was right and the control wrong."""
    configure_logs(LogSettings(level="error"))
    console = Console(width=None if sys.stdout.isatty() else 150)
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as temporary:
        place = (keep or Path(temporary)).resolve()
        if pitr:
            sys.exit(not asyncio.run(restore.run(place, console.print)))
        table = Table(
            "drill", "accepted", "confirmed", "told while frozen", "waited", "lost", "money", "to 202 s", "verdict"
        )
        wrong = False
        for drill in DRILLS:
            if re.search(only, drill.name):
                folder = place / drill.name.replace(" ", "-").replace(",", "")
                result, loss, early = asyncio.run(run_drill(drill, seed, units=units, buyers=buyers, folder=folder))
                wrong = wrong or result.right is not drill.guarded or (not drill.guarded and not result.lost)
                again_s = result.repair_to_202_s
                table.add_row(
                    drill.name,
                    *(f"{result.outcome[name]:,}" for name in ("accepted", "confirmed")),
                    *(str(count) for count in (early, loss.waiting, result.lost, result.double_charged)),
                    "-" if again_s is None else f"{again_s:.1f}",
                    "right" if result.right else "WRONG",
                )
                for problem in result.problems:
                    console.print(problem, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
