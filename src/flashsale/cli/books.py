"""The books, through the API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from flashsale.cli.client import open_api, url_option
from flashsale.cli.desk import show_rows
from flashsale.cli.group import main, print_result, run_command
from flashsale.runtime.csv_rows import ROW_END, csv_rows

if TYPE_CHECKING:
    from datetime import datetime

_day = click.DateTime(formats=["%Y-%m-%d"])


@main.command(epilog="Example: flashsale books --since 2026-11-01 --until 2026-11-30 --format csv > november.csv")
@click.option("--since", type=_day, help="First day, such as 2026-11-01; without it, the last day alone.")
@click.option("--until", type=_day, help="Last day, included; without it, today.")
@click.option(
    "--time-zone",
    default="UTC",
    show_default=True,
    help="IANA name of the time zone in which a day ends at midnight, such as Europe/Berlin.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "jsonl"]),
    default="table",
    show_default=True,
    help="Table for people, or rows for programs.",
)
@url_option
def books(since: datetime | None, until: datetime | None, time_zone: str, form: str, url: str) -> None:
    """Print revenue, refunds and net revenue by day, product and currency."""
    days = {"since": since, "until": until}
    query = {"timeZone": time_zone, **{name: f"{day:%Y-%m-%d}" for name, day in days.items() if day is not None}}

    async def run() -> None:
        async with open_api(url) as api:
            found = await api("GET", "/api/admin/books", query=query)
        if form == "table":
            show_rows(found, machine=False)
        elif form == "csv":
            names = list(COLUMNS)
            print_result(csv_rows([names, *([one[name] for name in names] for one in found)]).removesuffix(ROW_END))
        elif found:
            print_result("\n".join(json.dumps(one) for one in found))

    run_command(run())


COLUMNS = (
    "day",
    "productId",
    "productName",
    "currency",
    "payments",
    "revenue",
    "refunds",
    "refunded",
    "fees",
    "net",
)
