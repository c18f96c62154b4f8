"""Delivery of the outbox, and of codes for new passwords: periodic jobs. Several maintenance workers do no harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procrastinate import Blueprint, JobContext

if TYPE_CHECKING:
    from flashsale.bootstrap.jobs import Jobs

EVERY_SECOND = "* * * * * *"


def add_outbox(tasks: Blueprint) -> None:
    """Add the tasks."""

    @tasks.periodic(cron=EVERY_SECOND)
    @tasks.task(name="deliver", queue="upkeep", queueing_lock="deliver", pass_context=True)
    async def deliver(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Begin to deliver due messages."""
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.deliver()

    @tasks.periodic(cron=EVERY_SECOND)
    @tasks.task(name="send_resets", queue="upkeep", queueing_lock="send_resets", lock="send_resets", pass_context=True)
    async def send_resets(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Send the codes with which buyers set new passwords."""
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.send_resets()
