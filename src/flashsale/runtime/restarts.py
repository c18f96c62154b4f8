"""The pause before a process or worker that ended by itself starts again: one policy for both."""

from __future__ import annotations

import time

RESTART_S = 0.5
"""The first pause; each further pause is twice as long, up to a bound."""

RESTART_MAX_S = 30.0

STEADY_S = 30.0
"""After a run of this length the next pause is RESTART_S again."""


class Restarts:
    """The pauses of one process or worker."""

    def __init__(self, *, longest_s: float = RESTART_MAX_S) -> None:
        """Count this instant as a start; no pause is longer than `longest_s`."""
        self._longest_s = longest_s
        self._pause_s = RESTART_S
        self._began_s = time.monotonic()

    def began(self) -> None:
        """Record a start."""
        self._began_s = time.monotonic()

    def pause_s(self) -> float:
        """Return the seconds to wait before the next start. Call it after each end and each failed start."""
        if time.monotonic() - self._began_s >= STEADY_S:
            self._pause_s = RESTART_S
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, self._longest_s)
        self._began_s = time.monotonic()
        return pause_s
