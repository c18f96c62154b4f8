"""Exports of orders to files."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from flashsale.cli.client import read_parts, url_option
from flashsale.cli.desk import filters, orders
from flashsale.cli.group import run_command
from flashsale.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW_ENDS = {"csv": b"\r\n", "jsonl": b"\n"}


@orders.command("export", epilog="Example: flashsale orders export --product 1 --out orders.csv")
@filters
@click.option(
    "--format", "form", type=click.Choice(list(ROW_ENDS)), default="csv", show_default=True, help="Form of the rows."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file; without it, standard output.")
@url_option
def export_orders(asked: dict[str, str], form: str, out: Path | None, url: str) -> None:
    """Write all orders of a buyer, product, state or time, newest first, as CSV or JSON lines.

    The command replaces the file only when the export is complete; after a failure an older file stays. Only its owner
    may read the file, because it has the buyers' addresses.
    """

    async def run() -> None:
        began_s, count = time.monotonic(), -1 if form == "csv" else 0
        with whole_file(out) as file, progress() as show:
            async with aclosing(read_parts(url, "/api/admin/orders/export", {**asked, "format": form})) as parts:
                async for part in parts:
                    file.write(part)
                    count += part.count(ROW_ENDS[form])
                    show(f"{max(count, 0):,} orders")
        click.echo(f"{count:,} orders in {time.monotonic() - began_s:.1f} s", err=True)

    run_command(run())


@contextmanager
def whole_file(path: Path | None) -> Iterator[IO[bytes]]:
    """Open a file that takes its name when the block ends without an error; None: standard output.

    Raises:
        OSError: if the disk is full, for example; then nothing is left of what was written.
    """
    if path is None or (path.exists() and not path.is_file()):
        with sys.stdout.buffer if path is None else path.open("wb") as stream:
            yield stream
            stream.flush()
        return
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException as error:
        with suppress(OSError):
            Path(name).unlink()
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
