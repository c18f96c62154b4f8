"""Logs of the local stack: cut before they fill the disk."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOG_BYTES_MAX = 20_000_000
"""Largest log. With the part before it, which is kept, a process has at most about twice as much."""

EVERY_S = 5.0


async def cut_logs(folder: Path) -> None:
    """Cut the logs in `folder` for ever, every few seconds."""
    while True:
        await asyncio.to_thread(_cut_all, folder)
        await asyncio.sleep(EVERY_S)


def _cut_all(folder: Path) -> None:
    for path in folder.glob("*.log"):
        cut_log(path)


def cut_log(path: Path) -> None:
    """Move a log that has grown too large to a second file, which replaces the older part.

    Processes keep a log open, so it is copied and emptied; they append, and go on at its new beginning. What is written
    between the two steps is lost. A disk that is full, or a log that is gone, changes nothing: logs never decide.
    """
    try:
        if path.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)
    except OSError:
        return
