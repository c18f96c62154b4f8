"""Take every guard away in turn and see that a test fails: `nox -s mutations`.

Each mutation is made in a copy of the checkout, in which only the tests named for it are run. A guard whose tests still
pass without it is not tested: exit code 1. Example: `python -m tests.mutations --only epoch`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.mutations import ROOT, Mutation, read_mutations

COPIED = ("src", "sql", "migrations", "workers", "tests", "docker", "docs", "alembic.ini", "pyproject.toml")
AT_ONCE = 2
TIMEOUT_S = 180


def try_mutation(mutation: Mutation) -> str:
    """Run the mutation's tests without the guard; gives `caught`, or what is wrong with the mutation or the tests."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        file = copy / mutation.file
        text = file.read_text()
        if text.count(mutation.before) != 1:
            return f"the guard is {text.count(mutation.before)} times in {mutation.file}"
        file.write_text(text.replace(mutation.before, mutation.after))
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        command = [*pytest, mutation.where, "-k", mutation.tests]
        try:
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"pytest took longer than {TIMEOUT_S} s"
    if done.returncode == 0:
        ran = " passed" in done.stdout.rpartition("\n")[0].rpartition("\n")[2]
        return "SURVIVED" if ran else "its tests were skipped"
    return "caught" if done.returncode == 1 else f"pytest ended with {done.returncode}: {done.stdout[-300:]}"


@click.command(epilog="Example: python -m tests.mutations --only epoch")
@click.option("--only", default="", help="Only guards whose text or file holds this.")
@click.option("--at-once", default=AT_ONCE, show_default=True, help="Mutations tried at the same time.")
def main(only: str, at_once: int) -> None:
    """Take every guard away in turn and see that a test fails."""
    chosen = [mutation for mutation in read_mutations() if only in mutation.guard or only in mutation.file]
    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table("guard", "test", "without it", title="mutations", title_justify="left")
    survived = 0
    with ThreadPoolExecutor(at_once) as pool:
        for number, (mutation, verdict) in enumerate(zip(chosen, pool.map(try_mutation, chosen), strict=True), 1):
            console.print(f"{number}/{len(chosen)} {mutation.guard}: {verdict}", highlight=False, soft_wrap=True)
            table.add_row(mutation.guard, mutation.tests, verdict)
            survived += verdict != "caught"
    console.print(table)
    console.print(f"{len(chosen) - survived} caught, {survived} not")
    sys.exit(int(survived > 0))


if __name__ == "__main__":
    main()
