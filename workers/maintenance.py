"""Periodic maintenance jobs. Several maintenance workers do no harm: a job that still waits is not deferred twice."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from typing import TYPE_CHECKING

import structlog
from procrastinate import Blueprint, JobContext
from procrastinate.jobs import Status

from flashsale.runtime.shared_metrics import Counter, Gauge
from flashsale.usecases.figures import QUEUES
from workers.outbox import add_outbox

if TYPE_CHECKING:
    from flashsale.bootstrap.jobs import Jobs

log = structlog.get_logger(__name__)

EVERY_SECOND = "* * * * * *"
EVERY_5_SECONDS = "* * * * * */5"
EVERY_MINUTE = "* * * * * 20"
EVERY_MINUTE_LATER = "* * * * * 40"

RESCUES = Counter("flashsale_rescues", "Jobs taken from workers that are dead, by queue.", ["queue"])
VIOLATIONS = Gauge(
    "flashsale_audit_violations",
    "What violated an invariant when the maintenance worker looked last.",
    ["invariant"],
    multiprocess_mode="livemostrecent",
)
AUDITED = Gauge(
    "flashsale_audited_timestamp_seconds", "When the maintenance worker looked last.", multiprocess_mode="livemax"
)
POSTPONED = Gauge(
    "flashsale_postponed_orders",
    "Orders that Postgres refused to move and that have not moved since.",
    multiprocess_mode="livemostrecent",
)
for queue in QUEUES:
    RESCUES.labels(queue)


def make_tasks() -> Blueprint:
    """Make the tasks of the maintenance workers. Each app needs its own tasks: adding tasks to an app renames them."""
    tasks = Blueprint()

    @tasks.periodic(cron=EVERY_SECOND)
    @tasks.task(name="sweep", queue="maintenance", queueing_lock="sweep", pass_context=True)
    async def sweep(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Wake due orders."""
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.sweep()
        POSTPONED.set(jobs.sweep.postponed)

    @tasks.periodic(cron=EVERY_5_SECONDS)
    @tasks.task(name="rescue", queue="maintenance", queueing_lock="rescue", pass_context=True)
    async def rescue(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Delete the jobs of dead workers; the sweep gives their orders new jobs."""
        manager = context.app.job_manager
        stalled_s: float = context.additional_context["stalled_s"]
        stalled = list(await manager.get_stalled_jobs(seconds_since_heartbeat=stalled_s))
        for job in stalled:
            log.warning("job.rescued", job_id=job.id, task=job.task_name)
            RESCUES.labels(job.queue).inc()
        # At the same time, so that one statement deletes them.
        await asyncio.gather(*(manager.finish_job(job, status=Status.FAILED, delete_job=True) for job in stalled))

    @tasks.periodic(cron=EVERY_SECOND)
    @tasks.task(
        name="wake_payments",
        queue="maintenance",
        queueing_lock="wake_payments",
        lock="wake_payments",
        pass_context=True,
    )
    async def wake_payments(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Defer jobs for payments whose webhook may be lost, and for payments whose order ended first."""
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.wake_payments()

    @tasks.periodic(cron=EVERY_5_SECONDS)
    @tasks.task(
        name="wake_refunds", queue="maintenance", queueing_lock="wake_refunds", lock="wake_refunds", pass_context=True
    )
    async def wake_refunds(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Defer new jobs for pending refunds whose job is lost."""
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.refund.wake()

    add_upkeep(tasks)
    add_outbox(tasks)
    return tasks


def add_upkeep(tasks: Blueprint) -> None:
    """Add the tasks that take long and may wait. They have their own queue, so sweep and rescue never wait for them."""

    @tasks.periodic(cron=EVERY_SECOND)
    @tasks.task(name="reconcile", queue="upkeep", queueing_lock="reconcile", pass_context=True)
    async def reconcile(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Compare the gate with Postgres, and correct the gate."""
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.reconcile()

    @tasks.periodic(cron=EVERY_MINUTE)
    @tasks.task(name="audit", queue="upkeep", queueing_lock="audit", lock="audit", pass_context=True)
    async def audit(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Check the invariants that Postgres alone can show, for the orders that may have changed lately."""
        jobs: Jobs = context.additional_context["jobs"]
        violations: Tally[str] = Tally()
        settings = jobs.settings.audit
        for checked in await jobs.invariants.check_recent(overdue_s=settings.overdue_s, stuck_s=settings.stuck_s):
            violations[checked.invariant] += checked.violations
            if checked.violations:
                log.error("audit.violated", invariant=checked.invariant, sample=checked.sample, note=checked.note)
        for invariant, count in violations.items():
            VIOLATIONS.labels(invariant).set(count)
        AUDITED.set_to_current_time()

    @tasks.periodic(cron=EVERY_MINUTE_LATER)
    @tasks.task(name="tidy", queue="upkeep", queueing_lock="tidy", lock="tidy", pass_context=True)
    async def tidy(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Add old orders to the totals, and delete void requests and jobs that have reached their age."""
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.tidy()

    @tasks.periodic(cron=EVERY_SECOND)
    @tasks.task(name="tend_units", queue="upkeep", queueing_lock="tend_units", lock="tend_units", pass_context=True)
    async def tend_units(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
        """Insert unit rows before claims need them, and delete surplus rows."""
        jobs: Jobs = context.additional_context["jobs"]
        await jobs.tend_units()
