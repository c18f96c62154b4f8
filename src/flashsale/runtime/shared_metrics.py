"""Counter, Gauge and Histogram whose failures cannot harm the process that counts.

Processes that share a directory (PROMETHEUS_MULTIPROC_DIR) count in mapped files. If the disk is full, a write to a new
page ends the process with SIGBUS, and a file that cannot be created raises in the middle of a request. Blocks are
therefore reserved first. A value without a block is counted in this process' own memory.
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
"""An upper bound of what an entry takes in addition to its key."""

_files: set[Reserved] = set()


class Reserved(MmapedDict):
    """prometheus_client's file of values; every block is reserved before a write to it."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002 - as its base
        """Open or create the file; if that fails, keep everything in memory."""
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
            # The disk is full, the file is not accessible, or an earlier process damaged it.
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
        """Return a value and its time; both are 0 for a new value."""
        try:
            value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
        except OSError:
            return self._unshared.setdefault(key, (0.0, 0.0))
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Store a value, in the file if the file has room."""
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
        """The number of values that are only in memory."""
        return len(self._unshared)


def unshared_series() -> int:
    """Count the values of this process that other processes cannot see."""
    return sum(file.unshared for file in _files)


def _reserve_first(path: Path) -> None:
    """Reserve all blocks of a file, or the first block of a new file; a new file without a block is removed.

    Raises:
        OSError: if there is no room, or the file cannot be created.
    """
    with path.open("a+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, max(size, FIRST_BYTES))
        except OSError:
            if not size:
                # Readers of the directory fail on an empty file.
                with contextlib.suppress(OSError):
                    path.unlink()
            raise


# prometheus_client looks up this class whenever it opens a file.
prometheus_client.values.MmapedDict = Reserved  # type: ignore[attr-defined]
