"""Backup and restore of the local stack."""

from __future__ import annotations

from pathlib import Path

import click

from flashsale.cli.group import main, print_result, run_command
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=".flashsale",
    show_default=True,
    help="Directory of the stack.",
)


@main.command(epilog="Example: flashsale backup sale.flashsale")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@data_dir_option
def backup(file: Path, data_dir: Path) -> None:
    """Write the local stack to one file, also during a sale: the database, the simulator's ledger, the secrets."""
    from flashsale.bootstrap.servers import schema_fingerprint
    from flashsale.local.backup import backup as run_backup

    configure_logs(LogSettings(level="warning"))

    async def run() -> None:
        print_result(await run_backup(data_dir, file, schema_of=schema_fingerprint))

    run_command(run())


@main.command(epilog="Example: flashsale restore sale.flashsale --data-dir restored")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@data_dir_option
@click.option(
    "--ledger", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The simulator's newest ledger."
)
@click.option("--overwrite", metavar="DATABASE", help="Name of the database in the directory, which is then deleted.")
def restore(file: Path, data_dir: Path, ledger: Path | None, overwrite: str | None) -> None:
    """Restore the local stack from a backup and list the charges made after the backup.

    Orders accepted after the backup are lost, and charges are not undone. Each line names a lost order, the amount to
    refund and the provider's id of the charge. Start the stack with `flashsale up`; it loads the gate from Postgres.
    """
    from flashsale.bootstrap.servers import schema_fingerprint, schema_revision
    from flashsale.domain.money import Money
    from flashsale.local.backup import AFTER
    from flashsale.local.backup import restore as run_restore
    from flashsale.simulator.split import split_ledger

    configure_logs(LogSettings(level="warning"))

    async def run() -> None:
        done = await run_restore(
            data_dir,
            file,
            overwrite=overwrite,
            ledger=ledger,
            schema_of=schema_fingerprint,
            revisions_to=schema_revision(),
            split=split_ledger,
        )
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
            f"restored in {data_dir} as of {done.made_at}; "
            f"charged after the restore point: {len(done.charged)} ({data_dir / AFTER})"
        )
        print_result("\n".join(lines))

    run_command(run())
