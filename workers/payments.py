"""Payment jobs: one per order and try, of a charge or a refund, and those that look at what the provider holds."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from procrastinate import Blueprint, JobContext
from structlog.contextvars import bind_contextvars

if TYPE_CHECKING:
    from flashsale.bootstrap import Jobs


def make_tasks() -> Blueprint:
    """Make the tasks of the payment workers; each app needs its own, because adding them to one renames them."""
    tasks = Blueprint()

    @tasks.task(name="charge", queue="payments", pass_context=True)
    async def charge(context: JobContext, *, order_id: str) -> None:
        """Charge one order."""
        bind_contextvars(job_id=context.job.id, order_id=order_id)
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.charge(UUID(order_id))

    @tasks.task(name="intent", queue="payments", pass_context=True)
    async def intent(context: JobContext, *, order_id: str, number: int) -> None:
        """Look at what the provider holds for an order; cancel it, or give it back, if the order ended without it."""
        bind_contextvars(job_id=context.job.id, order_id=order_id)
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.settle_intent(UUID(order_id), number)

    @tasks.task(name="event", queue="payments", pass_context=True)
    async def event(context: JobContext, *, provider: str, event_id: str) -> None:
        """Take a webhook."""
        bind_contextvars(job_id=context.job.id, event_id=event_id)
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.take_event(provider, event_id)

    @tasks.task(name="refund", queue="payments", pass_context=True)
    async def refund(context: JobContext, *, order_id: str) -> None:
        """Make the pending refund of one order."""
        bind_contextvars(job_id=context.job.id, order_id=order_id)
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.refund(UUID(order_id))

    return tasks
