"""Sell over Stripe's dialect while provider and workers fail, and print the money: `python -m tests.payments sale`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from flashsale.domain.money import Money
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
from tests.payments.sale import Plan, Sums, hold

if TYPE_CHECKING:
    from tests.payments.sale import Verdict


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prove that money adds up over Stripe's dialect."""
    configure_logs(LogSettings(level="error"))


@main.command(epilog="Example: python -m tests.payments sale --units 100 --buyers 300")
@click.option("--units", type=click.IntRange(4), default=1000, show_default=True, help="Units for sale.")
@click.option("--buyers", type=click.IntRange(8), default=3000, show_default=True, help="Buyers.")
@click.option("--seed", type=int, default=1, show_default=True, help="Which declines and faults come.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep logs, histories and data below this.")
def sale(units: int, buyers: int, seed: int, keep: Path | None) -> None:
    """Sell, compare the orders with the provider's ledger, and audit; exit code 0 only if everything adds up.

    10 % of payments are declined, 3 % of calls hang, 3 % are answered 500 although they were carried out; webhooks are
    duplicated (20 %), lost (10 %) and reordered; the provider takes 25 calls a second; all payment workers are killed
    twice.
    """
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        plan = Plan(units=units, buyers=buyers, seed=seed)
        verdict = asyncio.run(hold(plan, keep or Path(folder), click.echo))
    show(verdict)
    sys.exit(not verdict.right)


def show(verdict: Verdict) -> None:
    """Print the money table, the facts and the checks."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table("order", title="money: the orders here, and the provider's ledger", title_justify="left")
    for name in ("orders", "captured", "refunded", "net", "intents of", "captured there", "refunded there"):
        table.add_column(name, justify="right")
    table.add_column("net there", justify="right")
    table.add_column("let go there", justify="right")
    for state in sorted({*verdict.ours, *verdict.theirs}):
        ours, theirs = verdict.ours.get(state, Sums()), verdict.theirs.get(state, Sums())
        money = [str(Money(minor=minor, currency="USD")) for minor in (ours.captured, ours.refunded, ours.net)]
        there = [theirs.captured, theirs.refunded, theirs.net, theirs.voided]
        held = [str(Money(minor=minor, currency="USD")) for minor in there]
        table.add_row(state, str(ours.orders), *money, str(theirs.orders), *held)
    console.print(table)
    findings = verdict.findings.splitlines()
    money = [line for line in findings if line.startswith(("I7 ", "I8 ", "I15 ", "audit:")) or "VIOLATED" in line]
    for line in (*verdict.facts, *money):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for held_true, what in verdict.checks:
        console.print(f"{'right' if held_true else 'WRONG'}: {what}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
