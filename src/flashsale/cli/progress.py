"""A line at the terminal that says how far a command is."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN_S = 0.5
"""Time between two displays of the progress."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Show a line of progress at a terminal, and remove it in the end."""
    line = Progress()
    try:
        yield line
    finally:
        line.end()


class Progress:
    """A line on standard error that changes, if that is a terminal."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._shown_s = float("-inf")
        self._on = sys.stderr is not None and sys.stderr.isatty()
        self._width = 0

    def __call__(self, text: str) -> None:
        """Show how far it is, unless the last display is too recent."""
        if self._on and time.monotonic() - self._shown_s >= SHOWN_S:
            self._shown_s = time.monotonic()
            self._width = max(self._width, len(text))
            click.echo(f"\r{text:<{self._width}}", nl=False, err=True)

    def end(self) -> None:
        """Remove the line."""
        if self._width:
            click.echo(f"\r{'':<{self._width}}\r", nl=False, err=True)
