"""Delivery of the outbox: a periodic job of the maintenance workers. Several workers do no harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procrastinate import Blueprint, JobContext

if TYPE_CHECKING:
    from flashsale.bootstrap import Jobs

EVERY_SECOND = "* * * * * *"


def add_outbox(tasks: Blueprint) -> None:
    """Add the task."""

    @tasks.periodic(cron=EVERY_SECOND)
    @tasks.task(name="deliver", queue="upkeep", queueing_lock="deliver", pass_context=True)
    async def deliver(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Begin to deliver due messages."""
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.deliver()
