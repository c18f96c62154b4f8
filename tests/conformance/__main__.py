"""Run the cells against the simulator and, with `--localstripe PYTHON`, against localstripe; print the table."""

from __future__ import annotations

import argparse
import asyncio
import os.path
import sys

import click

from tests.conformance.cells import CELLS, Cell, Provider
from tests.conformance.providers import localstripe, simulator

CELL_S = 30.0


async def outcome(cell: Cell, provider: Provider) -> str:
    """Run a cell, also one that the provider is said to lack: that it passes all the same is worth knowing."""
    try:
        async with asyncio.timeout(CELL_S):
            await cell.run(provider)
    except Exception as error:  # noqa: BLE001 - a failed cell must not end the table
        if provider.name in cell.lacks:
            return f"not supported: {cell.lacks[provider.name]}"
        return f"FAILED: {type(error).__name__}: {error}".splitlines()[0][:100]
    return "passed, although it was said not to be supported" if provider.name in cell.lacks else "passed"


async def main() -> int:
    """Print a row per cell; the exit is 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--localstripe", metavar="PYTHON", type=os.path.abspath, help="interpreter of an environment with localstripe"
    )
    python = parser.parse_args().localstripe
    columns: dict[str, list[str]] = {}
    async with simulator() as provider:
        columns[provider.name] = [await outcome(cell, provider) for cell in CELLS]
    if python is not None:
        async with localstripe(python) as provider:
            columns[provider.name] = [await outcome(cell, provider) for cell in CELLS]
    click.echo(f"| cell | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for number, cell in enumerate(CELLS):
        click.echo(f"| {cell.name} | {' | '.join(column[number] for column in columns.values())} |")
    for name, column in columns.items():
        passed = sum(said.startswith("passed") for said in column)
        click.echo(
            f"{name}: {passed} of {len(CELLS)} passed, {sum(said.startswith('FAILED') for said in column)} failed"
        )
    return int(any(said.startswith("FAILED") for column in columns.values() for said in column))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
