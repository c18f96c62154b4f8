"""The trail of administration, for administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from flashsale.domain.trail import TrailEntry

READ_MAX = 500
"""Most rows in a page."""


class Trail(Protocol):
    """Reads the trail."""

    async def read(
        self,
        *,
        before: int | None,
        actor: str | None,
        action: str | None,
        of: str | None,
        since: datetime | None,
        until: datetime | None,
        limit: int,
    ) -> Sequence[TrailEntry]:
        """Read the trail, the newest first; a filter that is None lets everything pass.

        `before`: the last row of the previous page. `actor`: an e-mail address, an account's id, `cli` or `system`.
        `of`: the object.

        Raises:
            Unavailable: if Postgres is away.
        """
        ...
