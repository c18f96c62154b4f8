"""The local stack: start it, and show a sale on it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from flashsale.cli.group import configure_log, main, run_command
from flashsale.runtime.outputs import progress


@main.command(epilog="Example: flashsale up --api 4 --port 9000")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=".flashsale",
    show_default=True,
    help="Directory of data and logs.",
)
@click.option(
    "--api", type=click.IntRange(1, 64), default=2, show_default=True, help="Number of API processes behind one port."
)
@click.option("--orders", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of order workers.")
@click.option("--payments", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of payment workers.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port of the API; 0 means any free port.",
)
def up(data_dir: Path, api: int, orders: int, payments: int, port: int) -> None:
    """Start the whole stack on this machine and run it until Ctrl-C.

    The command also starts Postgres and Valkey, unless FLASHSALE_POSTGRES__URL or FLASHSALE_REDIS__URL names a running
    server. It reads every other setting (docs/reference/settings.md) from the environment.
    """
    from rich.console import Console

    from flashsale.local.mailbox import installed as mail_installed
    from flashsale.local.stack import Stack
    from flashsale.local.up import up as run_up

    console = Console(file=progress())
    configure_log("warning")
    stack = Stack(
        data_dir,
        api=api,
        orders=orders,
        payments=payments,
        mail=mail_installed() and "FLASHSALE_MAIL__URL" not in os.environ,
        port=port,
        environment=_named_servers(),
        say=console.print,
    )
    run_command(run_up(stack, console))


@main.command(epilog="Example: flashsale demo --units 100 --buyers 2000 --seconds 3")
@click.option("--units", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Number of units.")
@click.option("--buyers", type=click.IntRange(1, 100_000), default=10_000, show_default=True, help="Number of buyers.")
@click.option(
    "--seconds", type=click.FloatRange(0.5, 300), default=5.0, show_default=True, help="Time in which they arrive."
)
@click.option("--price", default="999.99", show_default=True, help="Price of a unit.")
@click.option("--api", type=click.IntRange(1, 64), default=2, show_default=True, help="Number of API processes.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of arrivals, payments and declines.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Directory that keeps data, logs and history.")
def demo(units: int, buyers: int, seconds: float, price: str, api: int, seed: int, data_dir: Path | None) -> None:
    """Run a whole sale on this machine and check the result.

    The command starts the stack, creates buyers, sends all buys with a load generator, waits for the last order,
    prints a table and the audit, and stops everything. It exits with 0 only if every invariant holds and every unit is
    confirmed or free.
    """
    from flashsale.demo.run import run_demo
    from flashsale.demo.sale import Sale

    configure_log("warning")
    sale = Sale(units=units, buyers=buyers, seconds=seconds, price=price, seed=seed)

    async def run(folder: Path) -> int:
        return await run_demo(sale, data_dir=folder, api=api, environment=_named_servers())

    if data_dir is not None:
        run_command(run(data_dir))
    else:
        with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
            run_command(run(Path(folder)))


def _named_servers() -> dict[str, str]:
    """Return the servers that the environment names; the stack starts the others."""
    names = ("FLASHSALE_POSTGRES__URL", "FLASHSALE_REDIS__URL")
    return {name: os.environ[name] for name in names if os.environ.get(name)}
