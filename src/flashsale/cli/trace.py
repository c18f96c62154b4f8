"""What happened to one order in all processes: the rows of Postgres, the lines of the logs, and where to find them."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashsale.cli.client import open_api, url_option
from flashsale.cli.desk import json_option
from flashsale.cli.group import main, print_result, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flashsale.cli.log_lines import LogLine


@main.command(
    epilog="Example: docker compose -f docker/compose.yaml logs --no-color | "
    "flashsale trace 0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58 --logs -"
)
@click.argument("order_id", type=click.UUID)
@click.option(
    "--logs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="A file of log lines in JSON, or - for standard input; give the option again for each further file.",
)
@url_option
@json_option
def trace(order_id: object, logs: tuple[str, ...], url: str, machine: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Show what happened to an order in every process: request, order, jobs, charges, webhooks, messages.

    The API tells what Postgres knows. With --logs, the log lines about the order and its request stand between.
    """

    async def run() -> None:
        async with open_api(url) as api:
            told = await api("GET", f"/api/admin/orders/{order_id}")
        # The same id may be written in capitals on the command line.
        rows = _rows(told, _lines(told, logs))
        if machine:
            print_result(json.dumps({**told, "entries": rows}))
        else:
            _print(told, rows, searched=bool(logs))

    run_command(run())


def _lines(told: dict[str, Any], logs: Sequence[str]) -> Iterator[LogLine]:
    from flashsale.cli.log_lines import lines_about

    return lines_about(told["orderId"], told["requestId"], _texts(logs), trace_id=told.get("traceId"))


def _texts(logs: Sequence[str]) -> Iterator[tuple[str, str]]:
    for log in logs:
        if log == "-":
            for text in sys.stdin:
                yield "log", text
        else:
            with Path(log).open(errors="replace") as file:
                for text in file:
                    yield Path(log).stem, text


def _rows(told: dict[str, Any], lines: Iterator[LogLine]) -> list[dict[str, Any]]:
    """Merge the entries of the story and the log lines, in the order of time; entries without a time come last."""
    rows = [
        {"at": one["at"], "where": "postgres", "what": one["kind"], "facts": one["facts"]} for one in told["entries"]
    ]
    rows += [
        {"at": line.at.isoformat(), "where": line.source, "what": line.event, "facts": line.facts} for line in lines
    ]
    return sorted(rows, key=lambda row: (row["at"] is None, _instant(row["at"])))


def _instant(at: str | None) -> float:
    return 0.0 if at is None else datetime.fromisoformat(at).timestamp()


def _print(told: dict[str, Any], rows: list[dict[str, Any]], *, searched: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    price = f"{told['quantity']} x {told['unitPrice']} {told['currency']}"
    print_result(
        f"order {told['orderId']}: {told['status']}\n"
        f"request {told['requestId'] or 'unknown'}, trace {told.get('traceId') or 'none'}\n"
        f"{told['productName']} (product {told['productId']}), {price}, account {told['userId']}"
    )
    table = Table("at", "where", "what", "facts")
    for row in rows:
        facts = ", ".join(f"{name} {value}" for name, value in row["facts"].items() if value is not None)
        table.add_row(str(row["at"] or "-"), row["where"], Text(row["what"]), Text(facts))
    Console(highlight=False).print(table)
    if told["dueAt"] is not None:
        print_result(f"The sweep looks at the order again at {told['dueAt']}.")
    if not searched:
        ids = "|".join(one for one in (told["orderId"], told["requestId"]) if one)
        print_result(
            "Log lines of all processes:\n"
            f"  docker compose -f docker/compose.yaml logs --no-color | flashsale trace {told['orderId']} --logs -\n"
            f'  Loki: {{compose_project="flashsale"}} |~ "{ids}"'
        )
