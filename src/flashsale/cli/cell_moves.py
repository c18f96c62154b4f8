"""Moves of products between cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flashsale.cli.accounts import author_of
from flashsale.cli.cells import FILE, cells, settings_of_cell
from flashsale.cli.group import print_result, run_command

if TYPE_CHECKING:
    from pathlib import Path


@cells.command(epilog="Example: flashsale cells move 34 --from cell-0.env --to cell-1.env")
@click.argument("product_id", type=click.IntRange(1, 2**31 - 1))
@click.option(
    "--from",
    "old",
    type=FILE,
    required=True,
    help="The settings of the product's cell, with the URL of the owner of its tables.",
)
@click.option("--to", "new", type=FILE, required=True, help="The same of the cell to which it moves.")
@click.option("--limits-anew", is_flag=True, help="Accept that the limit per buyer counts from zero in the other cell.")
def move(product_id: int, old: Path, new: Path, limits_anew: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Move the free units of a product that is not on sale to a new product of another cell.

    The old product is archived and leads to the new one; its orders stay. After a failure or a kill, the same command
    ends the move.
    """
    from flashsale.adapters.postgres.moves import open_cell
    from flashsale.usecases.move_product import move_product

    urls = [_owner_url(path) for path in (old, new)]

    async def run() -> None:
        by = author_of("cells move")
        async with open_cell(urls[0], str(old), by) as leaving, open_cell(urls[1], str(new), by) as entering:
            units, became = await move_product(leaving, entering, product_id, limits_anew=limits_anew)
        print_result(f"{units} units of product {product_id} are product {became}.")

    run_command(run())


def _owner_url(path: Path) -> str:
    from flashsale.bootstrap.servers import as_owner

    return as_owner(settings_of_cell(path, "admin")).postgres.url.get_secret_value()
