"""A shop of several cells."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashsale.cli.group import main, print_result, process_settings, run_command
from flashsale.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashsale.settings import Settings


@main.group()
def cells() -> None:
    """Begin a cell of a shop that has several, and check all of them (docs/how-to/several-cells.md)."""


@cells.command(epilog="Example: FLASHSALE_CELL__NUMBER=1 FLASHSALE_CELL__COUNT=2 flashsale cells begin")
def begin() -> None:
    """Let a new database number its products as those of this cell; once, before the cell's processes start."""
    from flashsale.adapters.postgres.cells import begin as begin_cell
    from flashsale.bootstrap.servers import as_owner

    settings = as_owner(process_settings("admin"))
    run_command(begin_cell(settings.postgres.url.get_secret_value(), settings.cell.number))


@cells.command(epilog="Example: FLASHSALE_CELL__ACCOUNTS_URL=postgresql://... flashsale cells join")
@click.option(
    "--again",
    is_flag=True,
    help="Copy every account once more: cell 0 lost this cell's replication slot, or one of the two was restored.",
)
def join(again: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Let this cell copy the accounts of cell 0, now and from now on; ends once the present ones have arrived."""
    from flashsale.adapters.postgres.cells import join as join_cell
    from flashsale.bootstrap.servers import as_owner

    settings = as_owner(process_settings("cells"))
    number = settings.cell.number
    if number == 0:
        sys.exit("flashsale: cell 0 has the accounts; set FLASHSALE_CELL__NUMBER to the cell that joins.")
    accounts_url = settings.cell.accounts_url.get_secret_value()
    with progress() as line:
        run_command(
            join_cell(
                settings.postgres.url.get_secret_value(),
                accounts_url,
                number,
                again=again,
                show=lambda copied: line(f"{copied:,} accounts copied"),
            )
        )
    print_result(f"Cell {number} has the accounts of cell 0, and gets each change of them.")


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FILES = click.argument("files", nargs=-1, required=True, type=FILE)
TIMEOUT_S = click.option(
    "--timeout-s", type=click.FloatRange(min=1), default=600.0, show_default=True, help="Maximum time for a cell."
)


@cells.command(epilog="Example: flashsale cells audit cell-0.env cell-1.env")
@FILES
@TIMEOUT_S
def audit(files: tuple[Path, ...], timeout_s: float) -> None:
    """Audit every cell and what moved between them, and print a line for each; exit with 1 if one is wrong.

    A cell that cannot be audited is wrong. FILES hold the settings of the cells, a file each, lines of NAME=value as
    for `flashsale audit`.
    """
    holds = _each(files, timeout_s, "audit", _of_audit)
    if not (_moves_hold(files) and holds):
        sys.exit(1)


@cells.command(epilog="Example: flashsale cells status cell-0.env cell-1.env")
@FILES
@TIMEOUT_S
def status(files: tuple[Path, ...], timeout_s: float) -> None:
    """Show the state of every cell, a line for each; exit with 1 if one cannot be read.

    FILES hold the settings of the cells, a file each, lines of NAME=value as for `flashsale status`.
    """
    if not _each(files, timeout_s, "status", _of_status):
        sys.exit(1)


def _each(files: tuple[Path, ...], timeout_s: float, command: str, tell: Callable[[str], tuple[bool, str]]) -> bool:
    """Run a command with the settings of each cell, all at once; a cell that does not answer has a line too."""
    running = [(path, _begin(path, command)) for path in files]
    holds = True
    for path, process in running:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            out, err = "", f"no answer in {timeout_s:g} s"
        try:
            well, told = tell(out)
        except (ValueError, KeyError, TypeError):
            lines = [line for line in err.splitlines() if line.strip()] or ["no output"]
            # Log lines may come first.
            said = next((line for line in lines if line.startswith("flashsale: ")), lines[0])
            well, told = False, f"not read: {said.removeprefix('flashsale: ')}"
        holds = holds and well
        result_line(path.stem, told, well=well)
    return holds


def result_line(name: str, told: str, *, well: bool) -> None:
    """Print the line of a cell."""
    print_result(f"{'ok' if well else 'FAILED':<6} {name:<16} {told}")


def _begin(path: Path, command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - this program
        [sys.executable, "-m", "flashsale.cli", command, "--json"],
        env=_environment(path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _environment(path: Path) -> dict[str, str]:
    from flashsale.settings import NO_SETTINGS, PREFIX

    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX) or name in NO_SETTINGS}
    return kept | _settings_in(path)


def settings_of_cell(path: Path, process: str) -> Settings:
    """Read the settings of a kind of process from a cell's file."""
    before, after = dict(os.environ), _environment(path)
    try:
        os.environ.clear()
        os.environ.update(after)
        return process_settings(process)
    except SystemExit as wrong:
        sys.exit(f"flashsale: {path}: {str(wrong.code).splitlines()[0]}")
    finally:
        os.environ.clear()
        os.environ.update(before)


def _moves_hold(files: tuple[Path, ...]) -> bool:
    """Compare what the cells say of products that moved between them, and print a line; whether it fits together."""
    from flashsale.adapters.postgres.moves import read_moves
    from flashsale.domain.errors import NotReady
    from flashsale.domain.moves import contradictions

    try:
        urls = {str(path): settings_of_cell(path, "audit").postgres.url.get_secret_value() for path in files}
        departures, arrivals, numbers = asyncio.run(read_moves(urls))
    except (NotReady, SystemExit) as error:
        said = error.detail if isinstance(error, NotReady) else str(error.code).removeprefix("flashsale: ")
        result_line("moves", f"not read: {said}", well=False)
        return False
    wrong = contradictions(departures, arrivals, numbers)
    result_line("moves", "; ".join([f"{len(departures)} products moved", *wrong]), well=not wrong)
    return not wrong


def _settings_in(path: Path) -> dict[str, str]:
    """Read lines of NAME=value as a shell does, without expansions; a line that is none ends the process."""
    from flashsale.settings import PREFIX

    found = {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"flashsale: {path}: {error}")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line.removeprefix("export "), comments=True)
        except ValueError:
            words = [""]
        if not words:
            continue
        name, equals, value = words[0].partition("=")
        if len(words) > 1 or not equals or not name.startswith(PREFIX):
            sys.exit(f"flashsale: {path}: line {number} is no {PREFIX}NAME=value.")
        found[name] = value
    return found


def _of_audit(out: str) -> tuple[bool, str]:
    document = json.loads(out)
    wrong = ", ".join(one["invariant"] for one in document["invariants"] if one["violations"])
    told = f"{document['hold']} hold, {document['violated']} violated, {document['notChecked']} not checked"
    return document["holds"], f"{told}: {wrong}" if wrong else told


def _of_status(out: str) -> tuple[bool, str]:
    now = json.loads(out)
    free, sold, whole = (sum(one[name] for one in now["products"]) for name in ("free", "sold", "allotment"))
    problems = f"; {len(now['problems'])} problems: {now['problems'][0]['what']}" if now["problems"] else ""
    return True, f"{len(now['products'])} products, {free} free, {sold} sold of {whole}{problems}"
