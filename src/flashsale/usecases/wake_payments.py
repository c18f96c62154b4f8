"""Defer jobs for due intents (to look at, cancel or refund) and due webhooks of the payment provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from flashsale.usecases.intents import Intents

log = structlog.get_logger(__name__)

JOB_LOST_S = 30.0
"""When an intent or webhook with a job is due again, because the job may be lost."""

EVENTS_MAX = 100


class WakePayments:
    """The use case. It makes no call to the provider: the jobs run in the payment workers, which have its key."""

    def __init__(self, intents: Intents, *, limit: int) -> None:
        """Defer jobs for at most `limit` intents per run, so that look-ups leave most of the call budget to charges."""
        self._intents = intents
        self._limit = limit

    async def __call__(self) -> None:
        """Make the jobs.

        Raises:
            Unavailable: if Postgres is away.
        """
        intents, events = await self._intents.wake(intents_max=self._limit, events_max=EVENTS_MAX, due_s=JOB_LOST_S)
        if intents or events:
            log.info("payments.woken", intents=intents, events=events)
