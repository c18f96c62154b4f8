"""Metrics that cannot harm the process that counts: Counter, Gauge and Histogram come from here.

Processes that share a directory (PROMETHEUS_MULTIPROC_DIR) count in mapped files. Writing to a page that a full disk
has no room for ends a process with SIGBUS, and a file that cannot be made raises in the middle of a request. So blocks
are reserved first; what gets none is counted in this process' own memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import prometheus_client.values
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.mmap_dict import MmapedDict

__all__ = ["Counter", "Gauge", "Histogram", "unshared_series"]

FIRST_BYTES = 2**16
"""Size of a new file: prometheus_client's."""

ENTRY_BYTES = 64
"""More than an entry takes in addition to its key."""

_files: set[Reserved] = set()


class Reserved(MmapedDict):
    """prometheus_client's file of values, with every block reserved before it is written."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002 - as its base
        """Open or make the file; if that fails, keep everything in memory."""
        self._unshared: dict[str, tuple[float, float]] = {}
        self._positions: dict[str, int] = {}
        self._f: Any = None
        if not read_mode:
            _files.add(self)
        try:
            if not read_mode:
                _reserve_first(Path(filename))
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, RuntimeError, struct.error):
            # Full, not accessible, or damaged by an earlier process.
            self._f = None

    def _init_value(self, key: str) -> None:
        if self._f is None:
            raise OSError
        while self._used + len(key.encode()) + ENTRY_BYTES > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)
            self._capacity *= 2
            self._m = mmap.mmap(self._f.fileno(), self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a value and its time; 0 for a new one."""
        try:
            value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
        except OSError:
            return self._unshared.setdefault(key, (0.0, 0.0))
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Keep a value: in the file if it has room."""
        try:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        except OSError:
            self._unshared[key] = (value, timestamp)
        else:
            if self._unshared:
                self._unshared.pop(key, None)

    def close(self) -> None:
        """Close the file."""
        _files.discard(self)
        super().close()  # type: ignore[no-untyped-call]

    @property
    def unshared(self) -> int:
        """How many values are in memory only."""
        return len(self._unshared)


def unshared_series() -> int:
    """Count the values of this process that others cannot see."""
    return sum(file.unshared for file in _files)


def _reserve_first(path: Path) -> None:
    """Return a file all blocks of its size, and a new one its first; a new one that gets none is removed again.

    Raises:
        OSError: if there is no room, or no way to make it.
    """
    with path.open("a+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, max(size, FIRST_BYTES))
        except OSError:
            if not size:
                # Readers of the directory would stumble over an empty file.
                with contextlib.suppress(OSError):
                    path.unlink()
            raise


# prometheus_client looks the class up whenever it opens a file.
prometheus_client.values.MmapedDict = Reserved  # type: ignore[attr-defined]
