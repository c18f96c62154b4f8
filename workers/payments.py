"""Payment jobs: a charge or refund of an order, an intent to look at, a webhook to handle."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from procrastinate import Blueprint, JobContext
from structlog.contextvars import bind_contextvars

if TYPE_CHECKING:
    from flashsale.bootstrap.jobs import Jobs


def make_tasks() -> Blueprint:
    """Make the tasks of the payment workers. Each app needs its own tasks: adding tasks to an app renames them."""
    tasks = Blueprint()

    @tasks.task(name="charge", queue="payments", pass_context=True)
    async def charge(context: JobContext, *, order_id: str) -> None:
        """Charge one order."""
        bind_contextvars(job_id=context.job.id, order_id=order_id)
        jobs: Jobs = context.additional_context["jobs"]
        with jobs.span("charge"):
            await jobs.charge(UUID(order_id))

    @tasks.task(name="intent", queue="payments", pass_context=True)
    async def intent(context: JobContext, *, order_id: str, number: int) -> None:
        """Look up an order's intent at the provider; cancel or refund it if the order ended unpaid."""
        bind_contextvars(job_id=context.job.id, order_id=order_id)
        jobs: Jobs = context.additional_context["jobs"]
        with jobs.span("intent"):
            await jobs.name_request(UUID(order_id))
            await jobs.settle_intent(UUID(order_id), number)

    @tasks.task(name="event", queue="payments", pass_context=True)
    async def event(context: JobContext, *, provider: str, event_id: str) -> None:
        """Handle a webhook."""
        bind_contextvars(job_id=context.job.id, event_id=event_id)
        jobs: Jobs = context.additional_context["jobs"]
        with jobs.span("event"):
            await jobs.take_event(provider, event_id)

    @tasks.task(name="refund", queue="payments", pass_context=True)
    async def refund(context: JobContext, *, order_id: str) -> None:
        """Make the pending refund of one order."""
        bind_contextvars(job_id=context.job.id, order_id=order_id)
        jobs: Jobs = context.additional_context["jobs"]
        with jobs.span("refund"):
            await jobs.name_request(UUID(order_id))
            await jobs.refund(UUID(order_id))

    return tasks
