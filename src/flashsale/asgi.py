"""One API process: uvicorn on an inherited or own socket, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import structlog
import uvicorn

from flashsale.bootstrap import open_services
from flashsale.http.app import build_app
from flashsale.http.live import LiveHub
from flashsale.http.services import ApiServices
from flashsale.observability import tell_ready

if TYPE_CHECKING:
    import socket

    from flashsale.bootstrap import Services
    from flashsale.settings import Settings

log = structlog.get_logger(__name__)

BACKLOG = 4096


def api_services(services: Services) -> ApiServices:
    """Give the API the part of the wiring that it serves from."""
    return ApiServices(
        settings=services.settings,
        database=services.database,
        gate=services.gate,
        catalog=services.catalog,
        feed=services.feed,
        buy=services.buy,
        orders=services.orders,
        order_rows=services.order_rows,
        products=services.products,
        accounts=services.accounts,
        administer=services.administer,
        load_gate=services.load_gate,
        figures=services.figures,
    )


class _Server(uvicorn.Server):
    """A server that leaves signals to us and says when it listens."""

    def __init__(self, config: uvicorn.Config, ready_fd: int | None) -> None:
        super().__init__(config)
        self._ready_fd = ready_fd

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        tell_ready(self._ready_fd)


async def serve(settings: Settings, *, sock: socket.socket, ready_fd: int | None = None) -> None:
    """Serve until told to stop; then streams end, open requests finish, and the rest is closed."""
    async with open_services(settings) as services:
        parts = api_services(services)
        hub = LiveHub(parts)
        config = uvicorn.Config(
            build_app(parts, hub),
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=settings.http.drain_s,
        )
        server = _Server(config, ready_fd)

        def stop() -> None:
            log.info("api.draining")
            hub.close()
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        await server.serve([sock])
    log.info("api.stopped")
