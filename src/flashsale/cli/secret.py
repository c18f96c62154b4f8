"""The key of the tokens: replace it while two keys are valid."""

from __future__ import annotations

from pathlib import Path

import click

from flashsale.cli.group import main, print_result, run_command

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=".flashsale",
    show_default=True,
    help="Directory of the local stack, which may run.",
)


@main.group()
def secret() -> None:
    """Replace the key that signs the tokens; nobody has to log in again."""


@secret.command(epilog="Example: flashsale secret rotate")
@data_dir_option
@click.option("--deployment", is_flag=True, help="Change nothing: print the steps for containers, with a new key.")
def rotate(data_dir: Path, deployment: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Sign with a new key from now on. Tokens of the old key stay valid until `flashsale secret drop`.

    A running stack replaces its API processes twice: first all accept the new key, then all sign with it.
    """
    from flashsale.local.rotation import deployment_steps
    from flashsale.local.rotation import rotate as run_rotate

    async def run() -> None:
        print_result(deployment_steps() if deployment else await run_rotate(data_dir))

    run_command(run())


@secret.command(epilog="Example: flashsale secret drop")
@data_dir_option
def drop(data_dir: Path) -> None:
    """Refuse the tokens of the old key. Do it once they have expired: one hour after the rotation by default."""
    from flashsale.local.rotation import drop as run_drop

    async def run() -> None:
        print_result(await run_drop(data_dir))

    run_command(run())
