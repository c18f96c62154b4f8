"""A worker's HTTP pages: metrics on `/metrics`, and liveness on `/health/live`."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from procrastinate.exceptions import ProcrastinateException
from procrastinate.manager import JobManager

from flashsale.runtime.metrics import page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from procrastinate.connector import BaseConnector
    from prometheus_client.metrics_core import Metric


class Heartbeat:
    """The time when a worker last worked: it wrote a heartbeat to the database, or restarted after losing it."""

    def __init__(self, silence_s: float) -> None:
        """The worker counts as alive until `silence_s` seconds after its last beat."""
        self._silence_s = silence_s
        self._beat_s = time.monotonic()

    def beat(self) -> None:
        """Record that the worker works."""
        self._beat_s = time.monotonic()

    @property
    def beats(self) -> bool:
        """Whether the last beat is recent enough."""
        return time.monotonic() - self._beat_s < self._silence_s


class HeartbeatJobManager(JobManager):
    """procrastinate's job manager; each heartbeat that it writes counts as a beat."""

    def __init__(self, connector: BaseConnector, heartbeat: Heartbeat) -> None:
        """Record beats at `heartbeat`."""
        super().__init__(connector)
        self._heartbeat = heartbeat
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        """Why a heartbeat failed: procrastinate then writes no other, and a worker without periodic jobs goes on."""

    async def update_heartbeat(self, worker_id: int) -> None:
        """Write the worker's heartbeat."""
        try:
            await super().update_heartbeat(worker_id)
        except (ProcrastinateException, OSError) as error:
            if not self.lost.done():
                self.lost.set_result(error)
            raise
        self._heartbeat.beat()


@asynccontextmanager
async def exporting(
    read: Callable[[], Awaitable[Sequence[Metric]]] | None,
    lives: Callable[[], bool],
    *,
    listener: int | None,
    port: int,
) -> AsyncIterator[None]:
    """Serve on an inherited socket, or on `port` of every address; port 0 serves nothing.

    `read` returns further metrics for each scrape. Processes of one machine may share a port.
    """

    async def metrics(request: web.Request) -> web.Response:
        text, content_type = await page(request.headers.get("Accept", ""), await read() if read is not None else ())
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def live(_: web.Request) -> web.Response:
        lives_now = lives()
        return web.json_response({"live": lives_now}, status=200 if lives_now else 503)

    if listener is None and not port:
        yield
        return
    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health/live", live)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        if listener is not None:
            await web.SockSite(runner, socket.socket(fileno=listener)).start()
        else:
            await web.TCPSite(runner, "0.0.0.0", port, reuse_port=True).start()  # noqa: S104
        yield
    finally:
        await runner.cleanup()
