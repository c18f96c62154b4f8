"""Backup and restore: of the local stack, or of a database on any server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashsale.cli.group import configure_log, main, print_result, run_command

if TYPE_CHECKING:
    from flashsale.local.backup import Restored

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=".flashsale",
    show_default=True,
    help="Directory of the stack.",
)


url_option = click.option(
    "--url",
    metavar="URL",
    help="Database on any server, as its owner, instead of the stack's. The password may be in PGPASSWORD.",
)
ledger_option = click.option(
    "--ledger", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The simulator's newest ledger."
)


@main.command(epilog="Example: flashsale backup sale.flashsale")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@data_dir_option
@url_option
@ledger_option
def backup(file: Path, data_dir: Path, url: str | None, ledger: Path | None) -> None:
    """Write the local stack to one file, also during a sale: the database, the simulator's ledger, the secrets.

    With --url, write the database alone, and the ledger that --ledger names.
    """
    from flashsale.bootstrap.servers import schema_fingerprint
    from flashsale.local.backup import backup as run_backup
    from flashsale.local.server_backup import backup_server

    configure_log("warning")
    if url is None and ledger is not None:
        raise click.UsageError("--ledger goes with --url: a backup of the stack has the stack's ledger.")

    async def run() -> None:
        if url is None:
            print_result(await run_backup(data_dir, file, schema_of=schema_fingerprint))
        else:
            print_result(await backup_server(url, file, ledger=ledger, schema_of=schema_fingerprint))

    run_command(run())


@main.command(epilog="Example: flashsale restore sale.flashsale --data-dir restored")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@data_dir_option
@url_option
@ledger_option
@click.option("--overwrite", metavar="DATABASE", help="Name of the database that is there, which is then deleted.")
def restore(file: Path, data_dir: Path, url: str | None, ledger: Path | None, overwrite: str | None) -> None:
    """Restore a backup and list the charges made after it.

    The backup goes into a directory of the local stack, or, with --url, becomes the database that the URL names.

    Orders accepted after the backup are lost, and charges are not undone. Each line names a lost order, the amount to
    refund and the provider's id of the charge. Start the stack with `flashsale up`; it loads the gate from Postgres.
    After a restore with --url, run the migrations (`alembic upgrade head`), which set the rights of the roles.
    """
    from flashsale.bootstrap.servers import schema_fingerprint, schema_revision
    from flashsale.local.backup import AFTER
    from flashsale.local.backup import restore as run_restore
    from flashsale.local.dumps import database_of
    from flashsale.local.server_backup import restore_server
    from flashsale.simulator.split import split_ledger

    configure_log("warning")
    known = {
        "overwrite": overwrite,
        "ledger": ledger,
        "schema_of": schema_fingerprint,
        "revisions_to": schema_revision(),
        "split": split_ledger,
    }

    async def run() -> None:
        if url is None:
            done = await run_restore(data_dir, file, **known)  # type: ignore[arg-type]
            place, rest = f"in {data_dir}", str(data_dir / AFTER)
        else:
            done = await restore_server(url, file, **known)  # type: ignore[arg-type]
            place, rest = f"as {database_of(url)}", f"{file}.{AFTER}"
        print_result(_told(done, place, rest))

    run_command(run())


def _told(done: Restored, place: str, rest: str) -> str:
    from flashsale.domain.money import Money

    lines = [
        f"charged after the restore point: order {one.order_id}, "
        f"{Money(minor=one.amount_minor, currency=one.currency)} {one.currency}, {one.reference}"
        for one in done.charged
    ]
    lines += [
        f"paid and refunded after the restore point: order {order_id}; compare it with the provider"
        for order_id in done.unsettled
    ]
    lines.append(
        f"restored {place} as of {done.made_at}; charged after the restore point: {len(done.charged)}"
        + (f" ({rest})" if done.charged else "")
    )
    return "\n".join(lines)
