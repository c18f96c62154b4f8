"""Run one worker process: `python -m workers orders|payments|maintenance`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import click
import structlog
import uvloop
from procrastinate.exceptions import ProcrastinateException

from flashsale.bootstrap.jobs import open_jobs
from flashsale.bootstrap.servers import require_servers
from flashsale.bootstrap.tracing import require_tracing
from flashsale.domain.errors import NotReady
from flashsale.runtime.logs import configure_logs, tell_ready
from flashsale.runtime.metrics import measured
from flashsale.runtime.outages import Outage
from flashsale.runtime.processes import run_processes, settle_collector
from flashsale.runtime.restarts import Restarts
from flashsale.settings import Settings, read_settings
from workers.app import ROLES, build_app, slots
from workers.exporter import Heartbeat, HeartbeatJobManager, exporting
from workers.sale_metrics import SaleMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from procrastinate import App

    from flashsale.bootstrap.jobs import Jobs

log = structlog.get_logger(__name__)

PAUSE_MAX_S = 1.0
"""Longest pause before a worker restarts that lost its database; orders wait during the pause."""


@click.command(epilog="Example: FLASHSALE_WORKERS__PAYMENT_CONCURRENCY=120 python -m workers payments")
@click.argument("role", type=click.Choice(sorted(ROLES)))
@click.option("--fd", type=int, help="Inherited listening socket for metrics, instead of workers.metrics_port.")
@click.option("--ready-fd", type=int, help="File descriptor that gets a line once the worker runs.")
def main(role: str, fd: int | None, ready_fd: int | None) -> None:
    """Run FLASHSALE_WORKERS__PROCESSES workers. SIGTERM and SIGINT let running jobs finish."""
    settings = read_settings(role)
    configure_logs(settings.log)
    if role == "payments" and settings.payments.provider == "simulator" and not settings.payments.gateway_url:
        sys.exit("FLASHSALE_PAYMENTS__GATEWAY_URL: name the payment gateway; see docs/reference/settings.md.")
    require_tracing(settings)
    require_servers(settings)
    run_processes(settings.workers.processes, lambda: uvloop.run(work(role, settings, fd, ready_fd)))


async def work(role: str, settings: Settings, fd: int | None, ready_fd: int | None) -> None:
    """Run one worker process of a role, until SIGTERM or SIGINT."""
    workers = settings.workers
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    def ready() -> None:
        nonlocal ready_fd
        tell_ready(ready_fd)
        ready_fd = None

    heartbeats = {queue: Heartbeat(workers.stalled_s) for queue in slots(role, workers)}
    async with (
        open_jobs(settings, name=f"worker-{role}") as jobs,
        measured(role, jobs.database),
        exporting(
            SaleMetrics(jobs.figures, jobs.gate, jobs.acceptance).read if role == "maintenance" else None,
            lambda: stopping.is_set() or all(heartbeat.beats for heartbeat in heartbeats.values()),
            listener=fd,
            port=workers.metrics_port,
        ),
    ):
        settle_collector()
        await _keep_taking_jobs(role, jobs, heartbeats, stopping, ready)
    log.info("worker.stopped", role=role)


async def _keep_taking_jobs(
    role: str, jobs: Jobs, heartbeats: Mapping[str, Heartbeat], stopping: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Run workers until `stopping`; restart them after each loss of the database."""
    restarts = Restarts(longest_s=PAUSE_MAX_S)
    outage = Outage(log)
    while not stopping.is_set():
        restarts.began()
        for heartbeat in heartbeats.values():
            heartbeat.beat()
        try:
            await jobs.check_schema()
            await _take_jobs(role, jobs, heartbeats, stopping, ready)
        except NotReady as error:
            log.error("worker.other_schema", role=role, problem=error.detail)  # noqa: TRY400 - one line says it
        except (ProcrastinateException, OSError) as error:
            outage.tell("worker.lost_database", role=role, error=type(error).__name__, reason=str(error)[:200])
        if not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(restarts.pause_s()):
                    await stopping.wait()


async def _take_jobs(
    role: str, jobs: Jobs, heartbeats: Mapping[str, Heartbeat], stopping: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Run a worker for each of the role's queues until `stopping`, or until one ends or cannot write its heartbeat."""
    settings = jobs.settings
    workers = settings.workers
    async with AsyncExitStack() as opened:
        apps: dict[str, App] = {}
        losses: list[asyncio.Future[Exception]] = []
        for queue, concurrency in slots(role, workers).items():
            # Only the first worker defers periodic jobs, for all queues.
            app = build_app(settings, roles=[role], concurrency=concurrency, periodic=not apps)
            apps[queue] = await opened.enter_async_context(app.open_async())
            app.job_manager = manager = HeartbeatJobManager(app.connector, heartbeats[queue])
            losses.append(manager.lost)
            log.info("worker.started", role=role, queue=queue, concurrency=concurrency)
        running = [
            asyncio.create_task(
                app.run_worker_async(
                    queues=[queue],
                    name=f"{queue}-{os.getpid()}",
                    concurrency=slots(role, workers)[queue],
                    fetch_job_polling_interval=workers.polling_s,
                    update_heartbeat_interval=workers.heartbeat_s,
                    stalled_worker_timeout=workers.stalled_s,
                    shutdown_graceful_timeout=workers.drain_s,
                    delete_jobs="successful",
                    install_signal_handlers=False,
                    additional_context={"jobs": jobs, "stalled_s": workers.stalled_s},
                )
            )
            for queue, app in apps.items()
        ]
        ready()
        told = asyncio.create_task(stopping.wait())
        first: list[asyncio.Future[Any]] = [*running, *losses, told]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if stopping.is_set():
            log.info("worker.draining", role=role)
        for one in running:
            # procrastinate lets jobs finish, at most `drain_s`, when its task is cancelled once.
            one.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
    lost = [one.result() for one in losses if one.done()] + [one for one in ended if isinstance(one, Exception)]
    if lost and not stopping.is_set():
        raise lost[0]


if __name__ == "__main__":
    main()
