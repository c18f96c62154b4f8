"""One API process: a server on an inherited or own socket, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from flashsale import pages
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.tracing import open_tracer
from flashsale.http.app import build_app
from flashsale.http.server import Server
from flashsale.http.streams.hub import LiveHub
from flashsale.runtime.logs import tell_ready
from flashsale.runtime.metrics import measured
from flashsale.runtime.processes import settle_collector

if TYPE_CHECKING:
    import socket

    from flashsale.settings import Settings

log = structlog.get_logger(__name__)


async def serve(settings: Settings, *, sock: socket.socket, ready_fd: int | None = None) -> None:
    """Serve until told to stop: then streams end, spread over seconds, and open requests finish.

    After SIGTERM the process is not ready and serves on for `http.unready_s`, so that load balancers leave it before it
    stops listening. Then clients leave by themselves, each with its next answer, so that none loses a request;
    connections that stay idle are closed after half of `http.drain_s`. SIGINT closes them at once.
    """
    stopping: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
    half_s = settings.http.drain_s / 2

    def stop(number: signal.Signals) -> None:
        if not stopping.done():
            stopping.set_result(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    async with AsyncExitStack() as opened:
        tracer = open_tracer(opened, settings, role="api")
        services = await opened.enter_async_context(open_services(settings, tracer=tracer))
        await opened.enter_async_context(measured("api", services.database, services.feed))
        hub = LiveHub(services, services.traces)
        edge = build_app(services, hub, pages.routes, tracer=tracer)
        server = Server(edge, settings.http)
        async with edge.lifespan():
            settle_collector()
            await server.listen(sock)
            tell_ready(ready_fd)
            patient = await stopping == signal.SIGTERM
            log.info("api.draining")
            if patient:
                services.readiness.end()
                await asyncio.sleep(settings.http.unready_s)
            hub.close()
            await server.stop(leave_s=half_s if patient else 0.0, finish_s=half_s)
    log.info("api.stopped")
