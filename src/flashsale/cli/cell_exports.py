"""The orders of all cells, through the shop's common address."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from flashsale.cli.cells import cells, result_line
from flashsale.cli.client import open_api, read_parts, url_option
from flashsale.cli.desk import filters
from flashsale.cli.exports import ROW_ENDS, whole_file
from flashsale.cli.group import run_command
from flashsale.domain.cells import CELL_MAX, first_product, home_of_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAID = {"confirmed", "refund_pending", "refunded"}
"""States of orders whose price was captured."""


@dataclass(slots=True)
class Totals:
    """What orders add up to."""

    orders: int = 0
    paid: Counter[str] = field(default_factory=Counter)
    """Minor units that were captured, by currency."""
    refunded: Counter[str] = field(default_factory=Counter)
    """Minor units that were given back, by currency."""

    def add(self, order: Mapping[str, str]) -> None:
        """Count an order of an export."""
        currency = order["currency"]
        self.orders += 1
        self.paid[currency] += _minor(order["totalPrice"], currency) if order["status"] in PAID else 0
        self.refunded[currency] += _minor(order["refunded"], currency)

    def update(self, other: Totals) -> None:
        """Add those of another cell."""
        self.orders += other.orders
        self.paid.update(other.paid)
        self.refunded.update(other.refunded)

    def __str__(self) -> str:
        """Return a line, with the currencies in order."""
        from flashsale.domain.money import Money

        sums = (
            f"; {currency}: {Money(minor=self.paid[currency], currency=currency)} paid, "
            f"{Money(minor=self.refunded[currency], currency=currency)} refunded"
            for currency in sorted(self.paid)
            if self.paid[currency] or self.refunded[currency]
        )
        return f"{self.orders} orders{''.join(sums)}"


def _minor(amount: str, currency: str) -> int:
    from flashsale.domain.money import Money

    return int(Decimal(amount).scaleb(Money(minor=0, currency=currency).exponent))


@cells.command("export", epilog="Example: flashsale cells export --cells 2 --to exports --status confirmed")
@click.option(
    "--cells", "count", type=click.IntRange(1, CELL_MAX + 1), required=True, help="How many cells the shop has."
)
@click.option("--to", "folder", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder.")
@filters
@click.option(
    "--format", "form", type=click.Choice(list(ROW_ENDS)), default="csv", show_default=True, help="Form of the rows."
)
@url_option
def export(asked: dict[str, str], count: int, folder: Path, form: str, url: str) -> None:
    """Write the orders of each cell to a file, as `flashsale orders export` does, and print what they add up to.

    The URL is the shop's common address. Exits with 1 if the orders of a cell are missing; an older file of it stays.
    """

    async def run() -> int:
        _make(folder)
        whole, missing = Totals(), 0
        for cell in range(count):
            path = folder / f"cell-{cell}.{form}"
            try:
                found = await _export(f"{url.rstrip('/')}/cells/{cell}" if cell else url, cell, asked, form, path)
            except SystemExit as refusal:
                missing += 1
                result_line(f"cell-{cell}", str(refusal.code).removeprefix("flashsale: "), well=False)
            else:
                whole.update(found)
                result_line(f"cell-{cell}", str(found), well=True)
        if missing:
            result_line("sum", f"{missing} of {count} cells missing", well=False)
        else:
            result_line("sum", str(whole), well=True)
        return int(missing > 0)

    run_command(run())


async def _export(url: str, cell: int, asked: dict[str, str], form: str, path: Path) -> Totals:
    """Write the orders of a cell. An answer of another cell, or none, exits with one line."""
    async with open_api(url) as api:
        # A router may lead what it does not know to cell 0. Each cell answers for its own products only.
        await api("GET", f"/api/products/{first_product(cell)}", missing=None)
    with whole_file(path) as file:
        async with aclosing(read_parts(url, "/api/admin/orders/export", {**asked, "format": form})) as parts:
            async for part in parts:
                file.write(part)
    return _totals(path, form, cell, url)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _totals(path: Path, form: str, cell: int, url: str) -> Totals:
    totals = Totals()
    for order in _orders_in(path, form):
        if home_of_order(UUID(order["orderId"])) != cell:
            path.unlink()
            sys.exit(f"{url} leads to another cell: correct --cells, or the list of cells of the router.")
        totals.add(order)
    return totals


def _orders_in(path: Path, form: str) -> Iterator[Mapping[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file) if form == "csv" else map(json.loads, file)
