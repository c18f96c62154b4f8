"""Order jobs: one per accepted batch."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from procrastinate import Blueprint, JobContext
from structlog.contextvars import bind_contextvars

if TYPE_CHECKING:
    from flashsale.bootstrap.jobs import Jobs


def make_tasks() -> Blueprint:
    """Make the tasks of the order workers. Each app needs its own tasks: adding tasks to an app renames them."""
    tasks = Blueprint()

    @tasks.task(name="process", queue="orders", pass_context=True)
    async def process(context: JobContext, *, order_ids: list[str]) -> None:
        """Check a batch of accepted orders and fan out their payments."""
        bind_contextvars(job_id=context.job.id)
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.process_orders([UUID(order_id) for order_id in order_ids])

    return tasks
