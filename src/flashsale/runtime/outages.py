"""Log lines about an outage: one when it begins, one a minute while it lasts, one when it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

AGAIN_S = 60.0
"""Time after which the same line is written again."""


class Outage:
    """What does not work at present, of the caller. Each try of a loop would write a line otherwise."""

    def __init__(self, log: FilteringBoundLogger, *, back: str | None = None) -> None:
        """Write to `log`; `back` is the event of the end, if the caller notices the end."""
        self._log = log
        self._back = back
        self._told: tuple[str, dict[str, Any]] | None = None
        self._told_s = 0.0

    def tell(self, event: str, **facts: Any) -> None:
        """Write a warning, unless the same was written within the last minute."""
        now_s = time.monotonic()
        if self._told != (event, facts) or now_s - self._told_s >= AGAIN_S:
            self._told, self._told_s = (event, facts), now_s
            self._log.warning(event, **facts)

    def over(self) -> None:
        """Say that it works again, if something was said."""
        if self._told is not None and self._back is not None:
            self._told = None
            self._log.info(self._back)
