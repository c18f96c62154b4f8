"""Rate limits within one process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flashsale.domain.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Hashable

COUNTED_MAX = 200_000
"""Keys that one process counts in a window; a key that comes after them is not limited here."""


class Rate:
    """Counts by key in windows of the wall clock, the same windows in every process."""

    __slots__ = ("_counts", "_window", "limit", "name", "window_s")

    def __init__(self, name: str, *, limit: int, window_s: int) -> None:
        """Start empty; `name` is the policy's in the RateLimit fields, a limit of 0 is none."""
        self.name = name
        self.limit = limit
        self.window_s = window_s
        self._window = 0
        self._counts: dict[Hashable, int] = {}

    def check(self, key: Hashable) -> None:
        """Count a request.

        Raises:
            RateLimited: if it is one too many.
        """
        if not self.limit:
            return
        now = time.time()
        if (window := int(now // self.window_s)) != self._window:
            self._window = window
            self._counts.clear()
        count = self._counts.get(key, 0) + 1
        if count == 1 and len(self._counts) >= COUNTED_MAX:
            return
        self._counts[key] = count
        if count > self.limit:
            raise RateLimited(
                policy=self.name, limit=self.limit, window_s=self.window_s, retry_after_s=self._ends_in_s(now)
            )

    def left(self, key: Hashable) -> tuple[int, int]:
        """Return how many requests are left in this window, and the whole seconds until the next one."""
        now = time.time()
        counted = self._counts.get(key, 0) if int(now // self.window_s) == self._window else 0
        return max(0, self.limit - counted), self._ends_in_s(now)

    def _ends_in_s(self, now: float) -> int:
        return int(self.window_s - now % self.window_s) + 1
