"""Run one worker process: `python -m workers orders|payments|maintenance`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import click
import structlog
import uvloop
from procrastinate.exceptions import ProcrastinateException

from flashsale.adapters.postgres.schema import check_schema
from flashsale.bootstrap import open_jobs, require_servers
from flashsale.domain.errors import NotReady
from flashsale.observability import configure_logs, tell_ready
from flashsale.processes import run_processes, settle_collector
from flashsale.settings import Settings, read_settings
from flashsale.telemetry import measured
from workers.app import ROLES, build_app
from workers.exporter import BeatingJobs, Pulse, exporting

log = structlog.get_logger(__name__)

RETRY_S = 1.0
"""Pause before a worker that lost its database starts again."""

MAINTENANCE_CONCURRENCY = 4


@click.command(epilog="Example: FLASHSALE_WORKERS__PAYMENT_CONCURRENCY=120 python -m workers payments")
@click.argument("role", type=click.Choice(sorted(ROLES)))
@click.option("--fd", type=int, help="Inherited listening socket for metrics, instead of workers.metrics_port.")
@click.option("--ready-fd", type=int, help="File descriptor that gets a line once the worker runs.")
def main(role: str, fd: int | None, ready_fd: int | None) -> None:
    """Run workers, FLASHSALE_WORKERS__PROCESSES of them, until SIGTERM or SIGINT, which let running jobs finish."""
    settings = read_settings()
    configure_logs(settings.log)
    if role == "payments" and not settings.payments.gateway_url:
        sys.exit("FLASHSALE_PAYMENTS__GATEWAY_URL: name the payment gateway; see docs/settings.md.")
    require_servers(settings)
    run_processes(settings.workers.processes, lambda: uvloop.run(work(role, settings, fd, ready_fd)))


async def work(role: str, settings: Settings, fd: int | None, ready_fd: int | None) -> None:
    """Take jobs of the role's queue; start again whenever the database was lost."""
    workers = settings.workers
    concurrency = {
        "orders": workers.order_concurrency,
        "payments": workers.payment_concurrency,
        "maintenance": MAINTENANCE_CONCURRENCY,
    }[role]
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    pulse = Pulse(workers.stalled_s)
    async with (
        open_jobs(settings, name=f"worker-{role}") as jobs,
        measured(role, jobs.database),
        exporting(
            jobs.truth.read if role == "maintenance" else None,
            lambda: stopping.is_set() or pulse.beats,
            listener=fd,
            port=workers.metrics_port,
        ),
    ):
        settle_collector()
        while not stopping.is_set():
            pulse.beat()
            try:
                await check_schema(jobs.database)
                async with build_app(settings, roles=[role], concurrency=concurrency).open_async() as app:
                    app.job_manager = BeatingJobs(app.connector, pulse)
                    running = asyncio.create_task(
                        app.run_worker_async(
                            queues=[role],
                            name=f"{role}-{os.getpid()}",
                            concurrency=concurrency,
                            fetch_job_polling_interval=workers.polling_s,
                            update_heartbeat_interval=workers.heartbeat_s,
                            stalled_worker_timeout=workers.stalled_s,
                            shutdown_graceful_timeout=workers.drain_s,
                            delete_jobs="successful",
                            install_signal_handlers=False,
                            additional_context={"jobs": jobs, "stalled_s": workers.stalled_s},
                        )
                    )
                    log.info("worker.started", role=role, concurrency=concurrency)
                    tell_ready(ready_fd)
                    ready_fd = None
                    told = asyncio.create_task(stopping.wait())
                    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
                    told.cancel()
                    if not running.done():
                        log.info("worker.draining", role=role)
                        # procrastinate lets jobs finish, at most `drain_s`, when its task is cancelled once.
                        running.cancel()
                    await asyncio.gather(running, return_exceptions=stopping.is_set())
            except NotReady as error:
                log.error("worker.other_schema", role=role, problem=error.detail)  # noqa: TRY400 - one line says it
            except (ProcrastinateException, OSError) as error:
                log.warning("worker.lost_database", role=role, error=type(error).__name__, reason=str(error)[:200])
            if not stopping.is_set():
                try:
                    await asyncio.wait_for(stopping.wait(), RETRY_S)
                except TimeoutError:
                    continue
    log.info("worker.stopped", role=role)


if __name__ == "__main__":
    main()
