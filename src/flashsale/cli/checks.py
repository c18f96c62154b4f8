"""Checks of a sale."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flashsale.cli.group import main, print_result, process_settings, run_command


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
    from flashsale.bootstrap import open_audit, require_servers
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
