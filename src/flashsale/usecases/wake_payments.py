"""Make jobs for what is due of the payment provider: intents to look at, cancel or give back, and webhooks to take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from flashsale.usecases.intents import Intents

log = structlog.get_logger(__name__)

JOB_LOST_S = 30.0
"""When what has a job is due again: the job may be lost."""

EVENTS_MAX = 100


class WakePayments:
    """The use case. It asks the provider nothing: the jobs run in the payment workers, which have its key."""

    def __init__(self, intents: Intents, *, limit: int) -> None:
        """Make jobs for at most `limit` intents in one run, so that looks leave most of the budget to charges."""
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
