"""Where webhooks go, the shop's or the provider's: a real HTTP server that notes what it gets and answers as told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Receiver:
    """Answers each request by the next of `answers`, then with 204: a status, `hang` or `cut`; with these `headers`."""

    def __init__(self) -> None:
        self.answers: list[int | str] = []
        self.headers: dict[str, str] = {}
        self.got: list[tuple[dict[str, str], bytes, str]] = []
        """Headers, body and path of each request, in the order of arrival."""
        self.port = 0
        self._arrived = asyncio.Condition()
        self.released = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    @property
    def came(self) -> list[tuple[dict[str, str], bytes]]:
        return [(headers, body) for headers, body, _ in self.got]

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _, _ in self.got]

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._arrived:
            self.got.append((dict(request.headers), body, request.path))
            self._arrived.notify_all()
        answer = self.answers.pop(0) if self.answers else 204
        if answer == "hang":
            await self.released.wait()
        if answer == "cut" and request.transport is not None:
            request.transport.abort()
        if answer == 302:
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        return web.Response(status=answer if isinstance(answer, int) else 204, headers=self.headers)

    async def arrived(self, count: int) -> list[tuple[dict[str, str], bytes]]:
        """Wait until so many came."""
        async with asyncio.timeout(60), self._arrived:
            await self._arrived.wait_for(lambda: len(self.got) >= count)
        return self.came


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        receiver.released.set()
        await runner.cleanup()
