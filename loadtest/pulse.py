"""The load generator's own lateness, and how many users it has: a clock in it that should tick every few milliseconds.

A generator without processor time sends late and reads answers late, whatever the system under test does. The clock
knows nothing of that system, so its delay is the generator's alone.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import gevent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TICK_S = 0.02
USERS_S = 0.5


class Pulse:
    """Measures from `began` on."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self._began = time.time()
        self._late_ms: list[tuple[float, float]] = []
        self._users: list[tuple[float, int]] = []
        self._cpu_s = time.process_time()
        self.steps: list[dict[str, Any]] = []
        """What a crowd in steps notes of each."""

    def began(self, at: float, *, users: Callable[[], int]) -> None:
        """Measure from now on; times are noted from `at` on (Unix seconds). `users` are those who are there."""
        self._began = at
        gevent.spawn(self._tick)
        gevent.spawn(self._count, users)

    def write(self, path: Path) -> None:
        """Write what was measured.

        Raises:
            SystemExit: if it cannot be written.
        """
        found = {
            "began_at": self._began,
            "cpu_s": time.process_time() - self._cpu_s,
            "late_ms": self._late_ms,
            "users": self._users,
            "steps": self.steps,
        }
        try:
            path.write_text(json.dumps(found))
        except OSError as error:
            raise SystemExit(f"{path}: {error.strerror}") from error

    def _tick(self) -> None:
        while True:
            due = time.monotonic() + TICK_S
            gevent.sleep(TICK_S)
            late_ms = (time.monotonic() - due) * 1000
            self._late_ms.append((round(time.time() - self._began, 2), round(late_ms, 2)))

    def _count(self, users: Callable[[], int]) -> None:
        while True:
            self._users.append((round(time.time() - self._began, 2), users()))
            gevent.sleep(USERS_S)
