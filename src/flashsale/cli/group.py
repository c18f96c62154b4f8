"""The group of the commands, and the functions that the commands share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Literal

import click

from flashsale import __version__
from flashsale.runtime.outputs import guard_errors

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from flashsale.settings import Settings


# Each command imports its modules when it runs, so `--help` starts fast.


class Commands(click.Group):
    """The commands. Ctrl-C ends each with exit code 130 and prints nothing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse arguments that are no text: Python keeps their bytes as lone surrogates, which nothing can send."""
        for one in args:
            if any("\ud800" <= character <= "\udfff" for character in one):
                raise click.UsageError(f"{one!a} is no text in UTF-8.", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """A flash-sale backend: a fixed number of units, far more buyers, no unit sold twice, no order lost."""
    guard_errors()


def run_command(coroutine: Coroutine[object, object, int | None]) -> None:
    """Run a command. An expected failure prints one line and exits with 1."""
    from flashsale.domain.errors import FlashSaleError
    from flashsale.local.binaries import MissingBinary
    from flashsale.local.children import ChildFailed
    from flashsale.usecases.ports import PoisonBatch

    try:
        code = asyncio.run(coroutine)
    except OSError as error:
        forget_output()
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"flashsale: {place}{error.strerror or error}")
    except (ChildFailed, MissingBinary) as error:
        sys.exit(f"flashsale: {error}")
    except FlashSaleError as error:
        sys.exit(f"flashsale: {error.detail}")
    except PoisonBatch as error:
        sys.exit(f"flashsale: Postgres refused: {error}")
    if code:
        sys.exit(code)


def forget_output() -> None:
    """Redirect standard output to /dev/null: Python would flush its buffer at exit and print a second error."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def print_result(text: str) -> None:
    """Print the result of a command. An `OSError` ends the command with one line and exit code 1."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def process_settings(process: str) -> Settings:
    """Read the settings of a process, and configure its log."""
    import structlog

    from flashsale.runtime.logs import configure_logs
    from flashsale.settings import read_settings

    settings = read_settings(process)
    configure_logs(settings.log)
    structlog.contextvars.clear_contextvars()
    return settings


def configure_log(level: Literal["warning", "error"]) -> None:
    """Configure the log of a command that reads no settings."""
    from flashsale.runtime.logs import configure_logs
    from flashsale.settings.groups import LogSettings

    configure_logs(LogSettings(level=level))


def listening(host: str, port: int, fd: int | None) -> socket.socket:
    """Return the inherited socket `fd`, or a socket that listens on `host` and `port`."""
    if fd is not None:
        try:
            return socket.socket(fileno=fd)
        except (OSError, ValueError) as error:
            sys.exit(f"flashsale: --fd {fd}: is no open socket: {error}")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sys.exit(f"flashsale: cannot listen on {host}:{port}: {error.strerror}")
    sock.listen(4096)
    return sock
