"""The audit of every minute, at the time at which somebody asks for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from flashsale.domain.errors import NotReady
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.settings.groups import AuditSettings
    from flashsale.usecases.findings import Checked


class RecentTruth(Protocol):
    """What the audit of every minute reads."""

    async def check_recent(self, *, overdue_s: float, stuck_s: float, secrets: bool) -> Sequence[Checked]:
        """Check every invariant on one snapshot, for the orders that may have changed lately.

        Without `secrets`: except those whose statements read secrets.

        Raises:
            Unavailable: if Postgres is away, or a statement takes too long.
            PoisonBatch: if the database user may not read everything.
        """
        ...


class AuditNow:
    """The use case; the caller checks the permission. It only reads."""

    def __init__(self, truth: RecentTruth, settings: AuditSettings) -> None:
        """Read from this; the settings say how late and how stuck an order may be."""
        self._truth = truth
        self._settings = settings
        self._running: asyncio.Task[Sequence[Checked]] | None = None

    async def __call__(self) -> Sequence[Checked]:
        """Check the invariants. One audit runs at a time in a process, because each holds a connection.

        Who asks while it runs gets its result, so that no queue grows. It goes on when they leave.

        Raises:
            Unavailable: if Postgres is away, or too slow.
            NotReady: if the database user of the API may not read what the audit reads.
        """
        if self._running is None:
            self._running = asyncio.create_task(self._check())
            self._running.add_done_callback(self._forget)
        return await asyncio.shield(self._running)

    def _forget(self, audit: asyncio.Task[Sequence[Checked]]) -> None:
        self._running = None
        if not audit.cancelled():
            # Nobody may be left to whom the error is told.
            audit.exception()

    async def _check(self) -> Sequence[Checked]:
        try:
            return await self._truth.check_recent(
                overdue_s=self._settings.overdue_s, stuck_s=self._settings.stuck_s, secrets=False
            )
        except PoisonBatch as error:
            raise NotReady(f"The audit may not read everything: {error}. Run sql/grants.sql.") from error
