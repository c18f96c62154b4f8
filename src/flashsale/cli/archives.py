"""Sales that leave the database for files, and the audit of these files."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashsale.cli.accounts import author_of
from flashsale.cli.group import main, print_result, process_settings, run_command
from flashsale.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flashsale.cli.progress import Progress
    from flashsale.usecases.archive_sale import Archived, ArchiveSale, SaleRows
    from flashsale.usecases.findings import Checked

EXAMPLES = "Example: flashsale archive 7 --to /backup/sales; then flashsale archive check /backup/sales"


class ArchiveGroup(click.Group):
    """A group whose first word may be a product: then it is the command that archives."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the command that archives, unless another one or help is asked for."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["sale", *args]
        return super().parse_args(ctx, args)


@main.group(cls=ArchiveGroup, epilog=EXAMPLES, subcommand_metavar="PRODUCT... --to FOLDER | check FOLDER")
def archive() -> None:
    """Move the rows of finished sales from the database to files, and check such files.

    The options of `flashsale archive PRODUCT` are those of `flashsale archive sale`.
    """


@archive.command("sale", epilog=EXAMPLES)
@click.argument("product_ids", metavar="PRODUCT...", type=click.IntRange(1, 2**31 - 1), nargs=-1)
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the files; each sale gets a folder in it.",
)
@click.option("--place", help="What look-ups name as the place of this folder; otherwise the machine and the path.")
@click.option("--due", is_flag=True, help="All sales of archived products that were quiet for long enough.")
@click.option(
    "--disputes-over", is_flag=True, help="Disputes have ended, which the provider does not tell: they keep no sale."
)
@click.option("--keep-rows", is_flag=True, help="Write and check the files, and delete nothing.")
@click.option("--quiet-days", type=click.FloatRange(min=0), help="Replaces FLASHSALE_ARCHIVE__QUIET_DAYS.")
@click.option("--json", "machine", is_flag=True, help="Print one JSON document instead of lines.")
def archive_sale(
    product_ids: Sequence[int],
    folder: Path,
    place: str | None,
    due: bool,  # noqa: FBT001 - click passes it by name
    disputes_over: bool,  # noqa: FBT001
    keep_rows: bool,  # noqa: FBT001
    quiet_days: float | None,
    machine: bool,  # noqa: FBT001
) -> None:
    """Write the rows of finished sales to files, check the files, then delete the rows.

    The product has to be archived (`flashsale product archive`), and nothing of its sale may be open. What stays of
    each order is its product, buyer, price and state, and the sums of its money for the books. The command runs as the
    owner of the tables. Run it again after it was interrupted: it goes on.
    """
    from flashsale.bootstrap.commands import open_archive
    from flashsale.bootstrap.servers import as_owner, require_servers

    if due == bool(product_ids):
        raise click.UsageError("name the products, or give --due: which sales?")
    settings = as_owner(process_settings("admin"))
    require_servers(settings)

    async def run() -> int:
        opening = open_archive(
            settings,
            folder,
            place=place,
            quiet_days=settings.archive.quiet_days if quiet_days is None else quiet_days,
            disputes_over=disputes_over,
            author=author_of("archive"),
        )
        async with opening as (of, rows):
            done, left, failed = await _archive(of, rows, product_ids, keep=keep_rows, show=not machine)
        if machine:
            print_result(
                json.dumps({"archived": [asdict(one) for one in done], "left": left, "failed": failed}, indent=2)
            )
        return 1 if failed else 0

    run_command(run())


async def _archive(
    of: Callable[[int], ArchiveSale], rows: SaleRows, product_ids: Sequence[int], *, keep: bool, show: bool
) -> tuple[list[Archived], list[str], list[str]]:
    """Archive sales, or all that are due, and print what became of each; returns also why sales were left, or failed.

    Of all that are due, one that fails stops no other; a sale that was named ends the command.
    """
    from flashsale.domain.errors import FlashSaleError
    from flashsale.usecases.archive_check import ArchiveRefused
    from flashsale.usecases.archive_sale import NotYet
    from flashsale.usecases.ports import PoisonBatch

    done: list[Archived] = []
    left: list[str] = []
    failed: list[str] = []
    for product_id in product_ids or await rows.due():
        began_s = time.monotonic()
        try:
            with progress() as line:
                one = await of(product_id)(product_id, keep=keep, show=partial(_show, line))
        except (ArchiveRefused, FlashSaleError, PoisonBatch, OSError) as error:
            if product_ids:
                if isinstance(error, ArchiveRefused):
                    sys.exit(f"flashsale: {error}")
                raise
            # One that is open waits for the next time; anything else is for a person.
            waits = isinstance(error, NotYet)
            (left if waits else failed).append(told := _line_of(error, product_id))
            text = f"{'left' if waits else 'failed'}: {told}"
        else:
            done.append(one)
            text = f"{_told(one)}; {time.monotonic() - began_s:.1f} s"
        if show:
            print_result(text)
    return done, left, failed


def _line_of(error: Exception, product_id: int) -> str:
    """Return what went wrong with a sale, in one line."""
    text = str(error).partition("\n")[0]
    return text if f"product {product_id}" in text.lower() else f"product {product_id}: {text}"


def _show(line: Progress, what: str, number: int, most: int) -> None:
    line(f"{what} {number:,} of {most:,} orders")


def _told(one: Archived) -> str:
    if one.before:
        return f"product {one.product_id}: archived before, in {one.place}"
    did = f"{one.removed:,} of them left the database" if one.removed else "no row was deleted"
    return f"product {one.product_id}: {one.orders:,} orders in {one.place}, {did}"


@archive.command("check", epilog="Example: flashsale archive check /backup/sales")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "machine", is_flag=True, help="Print one JSON document instead of lines.")
def check_archive(folder: Path, machine: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Check the files of an archived sale, or of all in a folder; exit with 1 if a promise is violated.

    The check needs no server: it compares the files with their digests, then the orders with each other.
    """
    from flashsale.bootstrap.commands import open_archives
    from flashsale.usecases.archive_check import ArchiveRefused
    from flashsale.usecases.findings import as_json, format_findings

    findings: list[Checked] = []
    try:
        for one in open_archives(folder):
            with progress() as line:
                found = one(partial(_show, line))
            if not machine:
                print_result(f"{one.folder}\n{format_findings(found)}")
            findings += found
    except ArchiveRefused as error:
        sys.exit(f"flashsale: {error}")
    except OSError as error:
        sys.exit(f"flashsale: {error.filename}: {error.strerror}")
    if machine:
        print_result(as_json(findings))
    sys.exit(any(finding.violations for finding in findings))
