"""A shop's endpoint: a real HTTP server that notes what it gets and answers as it is told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from aiohttp import web


class Receiver:
    """Answers each request by the next of `answers`, then with 204: a status, `hang` or `cut`."""

    def __init__(self):
        self.answers = []
        self.got = []
        self.port = 0
        self._arrived = asyncio.Condition()
        self.released = asyncio.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/hooks"

    async def take(self, request):
        body = await request.read()
        async with self._arrived:
            self.got.append((dict(request.headers), body, request.path))
            self._arrived.notify_all()
        answer = self.answers.pop(0) if self.answers else 204
        if answer == "hang":
            await self.released.wait()
        if answer == "cut":
            request.transport.abort()
        if answer == 302:
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        return web.Response(status=answer if isinstance(answer, int) else 204)

    async def arrived(self, count):
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.got) >= count)

    @property
    def ids(self):
        return [headers["webhook-id"] for headers, _, _ in self.got]


@asynccontextmanager
async def receiving():
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
