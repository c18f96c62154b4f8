"""Cuts the logs of the local stack before they fill the disk."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOG_BYTES_MAX = 20_000_000
"""Maximum size of a log. With the older part, which is kept, a process takes about twice as much."""

EVERY_S = 5.0


async def cut_logs(folder: Path) -> None:
    """Cut the logs in `folder` every few seconds, until cancelled."""
    while True:
        await asyncio.to_thread(_cut_all, folder)
        await asyncio.sleep(EVERY_S)


def _cut_all(folder: Path) -> None:
    for path in folder.glob("*.log"):
        cut_log(path)


def cut_log(path: Path) -> None:
    """Move a log that has grown too large to a second file, which replaces the older part.

    Processes keep a log open, so the log is copied and then emptied; the processes append at its new end. Lines that
    are written between the two steps are lost. A full disk or a missing log changes nothing: logs never decide.
    """
    try:
        if path.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)
    except OSError:
        return
