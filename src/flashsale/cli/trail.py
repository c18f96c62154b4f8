"""The trail of administration, through the API."""

from __future__ import annotations

import json
from typing import Any

import click

from flashsale.cli.client import open_api, url_option
from flashsale.cli.desk import json_option, show_rows
from flashsale.cli.group import main, run_command


@main.command(epilog="Example: flashsale trail --object product/1 --since 2026-11-27T09:00:00Z")
@click.option("--actor", help="Only what this actor did: an e-mail address, an account id, cli or system.")
@click.option("--action", help="Only this operation of the API or this command, such as pauseSale.")
@click.option("--object", "of", help="Only what was done to this object, such as product/1.")
@click.option("--since", help="Only changes at this time (2026-11-27T09:00:00Z) or later.")
@click.option("--until", help="Only changes before this time.")
@click.option("--before", type=click.IntRange(min=1), help="Only rows before this number, for the next page.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="Maximum number of rows.")
@url_option
@json_option
def trail(url: str, machine: bool, of: str | None, **asked: str | int | None) -> None:  # noqa: FBT001 - click passes it by name
    """Show who changed what, when and from where, newest first."""
    query = {name: str(value) for name, value in {**asked, "object": of}.items() if value is not None}

    async def run() -> None:
        async with open_api(url) as api:
            rows = await api("GET", "/api/admin/trail", query=query)
        show_rows(rows if machine else [_line(row) for row in rows], machine=machine)

    run_command(run())


def _line(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "at": row["at"],
        "actor": row["actor"],
        "from": row["origin"],
        "action": row["action"],
        "object": row["object"],
        "old": _values(row["old"]),
        "new": _values(row["new"]),
    }


def _values(values: dict[str, Any] | None) -> str:
    return "-" if values is None else ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())
