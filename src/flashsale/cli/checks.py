"""Checks of a sale."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import click

from flashsale.cli.group import main, print_result, process_settings, run_command
from flashsale.runtime.csv_rows import csv_rows


@main.command(epilog="Example: flashsale audit --history sale.jsonl")
@click.option(
    "--history", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File that a load generator wrote."
)
@click.option("--overdue-s", type=float, help="Replaces FLASHSALE_AUDIT__OVERDUE_S.")
@click.option("--bypass-ok", is_flag=True, help="Accept a gate that is not loaded.")
@click.option("--json", "machine", is_flag=True, help="Print one JSON document instead of lines.")
def audit(history: Path | None, overdue_s: float | None, bypass_ok: bool, machine: bool) -> None:  # noqa: FBT001
    """Recompute every invariant from the data, print one line for each, and exit with 1 on a violation.

    The audit reads Postgres, the gate and the payment gateway's ledger, which the environment names. With --history it
    also reads what the clients of a load generator saw.
    """
    from flashsale.bootstrap.commands import open_audit
    from flashsale.bootstrap.servers import require_servers
    from flashsale.usecases.findings import as_json, format_findings
    from flashsale.usecases.history import read_history

    settings = process_settings("audit")
    require_servers(settings)

    async def run() -> int:
        seen = None
        if history is not None:
            try:
                seen = read_history(history.open())
            except ValueError as error:
                sys.exit(f"flashsale: {history}: {error}")
        limits = settings.audit
        async with open_audit(settings, bypass_allowed=bypass_ok) as run_audit:
            findings = await run_audit(
                history=seen,
                overdue_s=limits.overdue_s if overdue_s is None else overdue_s,
                stuck_s=limits.stuck_s,
            )
        print_result(as_json(findings) if machine else format_findings(findings))
        return int(any(finding.violations for finding in findings))

    run_command(run())


@main.group()
def reconcile() -> None:
    """Compare this system's data with the data of others."""


@reconcile.command(epilog="Example: flashsale reconcile payments --since 2026-01-01 --csv differences.csv")
@click.option("--since", type=click.DateTime(), required=True, help="Orders made since this time, in UTC.")
@click.option("--csv", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the differences to a file.")
@click.option("--json", "machine", is_flag=True, help="Print one JSON object per difference.")
def payments(since: datetime, file: Path | None, machine: bool) -> None:  # noqa: FBT001
    """Compare the orders with the payment provider's list, and exit with 1 if they differ.

    Orders that move while the list is read are left for the next time.
    """
    from flashsale.bootstrap.commands import open_settlement
    from flashsale.bootstrap.servers import require_servers
    from flashsale.usecases.settle import Difference

    settings = process_settings("audit")
    require_servers(settings)

    async def run() -> int:
        names = [one.name for one in fields(Difference)]
        with ExitStack() as opened:
            rows = opened.enter_context(file.open("w", newline="")) if file is not None else None
            if rows is not None:
                rows.write(csv_rows([names]))
            count = 0
            async with open_settlement(settings) as settle:
                async for one in settle(since=since.replace(tzinfo=UTC), now=datetime.now(UTC)):
                    values = asdict(one)
                    count += 1
                    if rows is not None:
                        rows.write(csv_rows([values.values()]))
                    if machine:
                        print_result(json.dumps(values))
                    else:
                        print_result(
                            f"{one.order_id:<36} {one.cause:<20} {one.status or '-':<16} "
                            f"expected {one.expected} {one.currency}, held {one.held}"
                        )
        if not machine:
            print_result(f"reconcile: {count:,} differences")
        return int(count > 0)

    run_command(run())
