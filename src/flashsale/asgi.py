"""One API process: uvicorn on an inherited or own socket, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import structlog
import uvicorn

from flashsale.bootstrap import open_services
from flashsale.http.app import build_app
from flashsale.http.limits import limited
from flashsale.http.live import LiveHub
from flashsale.http.services import ApiServices
from flashsale.observability import tell_ready
from flashsale.processes import settle_collector
from flashsale.telemetry import measured

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
        readiness=services.readiness,
    )


class _Server(uvicorn.Server):
    """A server that leaves signals to us, says when it listens, and can let its clients go before it stops."""

    def __init__(self, config: uvicorn.Config, ready_fd: int | None) -> None:
        super().__init__(config)
        self._ready_fd = ready_fd
        self._drained_s: float | None = None

    def drain(self, longest_s: float) -> None:
        """Take no more connections, end each with its next answer, and stop once none is left, or after `longest_s`.

        A connection that is closed while idle may be just about to carry a request, which its client would lose.
        """
        self._drained_s = time.monotonic() + longest_s
        for listener in self.servers:
            listener.close()
        self.config.encoded_headers.append((b"connection", b"close"))
        self.server_state.default_headers = self.config.encoded_headers

    async def on_tick(self, counter: int) -> bool:
        stopping = await super().on_tick(counter)
        if self._drained_s is None:
            return stopping
        return stopping or not self.server_state.connections or time.monotonic() > self._drained_s

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        settle_collector()
        tell_ready(self._ready_fd)


async def serve(settings: Settings, *, sock: socket.socket, ready_fd: int | None = None) -> None:
    """Serve until told to stop: then streams end, spread over seconds, and open requests finish.

    SIGTERM also lets clients leave by themselves, each with its next answer, so that none loses a request; connections
    that stay idle are closed after half of `http.drain_s`. SIGINT closes them at once.
    """
    async with open_services(settings) as services, measured("api", services.database, services.feed):
        parts = api_services(services)
        hub = LiveHub(parts)
        config = uvicorn.Config(
            build_app(parts, hub),
            loop="uvloop",
            http=limited(settings.http),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=math.ceil(settings.http.drain_s / 2),
        )
        server = _Server(config, ready_fd)

        def drain() -> None:
            log.info("api.draining")
            hub.close()
            server.drain(settings.http.drain_s / 2)

        def stop() -> None:
            hub.close()
            server.should_exit = True

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, drain)
        loop.add_signal_handler(signal.SIGINT, stop)
        await server.serve([sock])
    log.info("api.stopped")
