"""The doctor: what is wrong with an installation, and what to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from flashsale.cli.group import configure_log, main, print_result, run_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.domain.checkups import Finding

COLOURS = {"OK": "green", "WARN": "yellow", "WRONG": "bold red"}


@main.command(epilog="Example: set -a; . .flashsale/environment; set +a; flashsale doctor")
@click.option("--json", "machine", is_flag=True, help="Print one JSON object per check.")
def doctor(machine: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Check versions, settings, clocks, schema, rights, limits and everything that the settings name.

    The command changes nothing and sends nothing to buyers. It exits with 1 if a check says WRONG.
    """
    from flashsale.bootstrap.doctor import examine
    from flashsale.domain.checkups import Verdict

    configure_log("error")

    async def run() -> int:
        findings = [finding async for finding in examine()]
        if machine:
            print_result("\n".join(json.dumps(asdict(finding)) for finding in findings))
        else:
            _print(findings)
        return int(any(finding.verdict is Verdict.WRONG for finding in findings))

    run_command(run())


def _print(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "", "found", "what to do")
    for one in findings:
        style = COLOURS[one.verdict]
        table.add_row(Text(one.check), Text(one.verdict, style=style), Text(one.what), Text(one.todo))
    Console(highlight=False).print(table)
