"""A shop's end of the provider's webhooks: a real server that keeps what it was sent."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(slots=True, kw_only=True)
class Receiver:
    """What came, in the order of arrival; `statuses` are answered first, then 200."""

    url: str
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, number: int, within_s: float = 10.0) -> list[tuple[dict[str, str], bytes]]:
        """Wait until so many came."""
        async with asyncio.timeout(within_s), self.more:
            await self.more.wait_for(lambda: len(self.came) >= number)
        return self.came

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self.more:
            self.came.append((dict(request.headers), body))
            self.more.notify_all()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    sock = socket.create_server(("127.0.0.1", 0))
    receiver = Receiver(url=f"http://127.0.0.1:{sock.getsockname()[1]}/hook")
    app = web.Application()
    app.add_routes([web.post("/hook", receiver.take)])
    runner: Any = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    try:
        yield receiver
    finally:
        await runner.cleanup()
