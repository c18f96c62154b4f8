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
        self._window = 0.0
        self._counts: dict[Hashable, int] = {}

    def take(self, key: Hashable) -> tuple[int, int]:
        """Count a request; return how many are left in this window, and the whole seconds until the next one.

        Without a limit nothing is counted.

        Raises:
            RateLimited: if it is one too many.
        """
        now, limit, window_s = time.time(), self.limit, self.window_s
        window, passed_s = divmod(now, window_s)
        if window != self._window:
            self._window = window
            self._counts.clear()
        ends_in_s = int(window_s - passed_s) + 1
        counts = self._counts
        count = counts.get(key, 0) + 1
        if limit and (count > 1 or len(counts) < COUNTED_MAX):
            counts[key] = count
            if count > limit:
                raise RateLimited(policy=self.name, limit=limit, window_s=window_s, retry_after_s=ends_in_s)
            return limit - count, ends_in_s
        return limit, ends_in_s
