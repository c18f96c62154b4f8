"""The gateway simulator as a service."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from flashsale.adapters.payments.simulator import SimulatorGateway
from flashsale.domain.payments import LedgerEntry
from flashsale.settings.simulator import SimulatorSettings
from flashsale.simulator.service import run_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


SECRET = "the-gateway-secret"


BODY = {"amountMinor": 99_999, "currency": "USD"}


SOON_S = 10.0


@dataclass(slots=True, kw_only=True)
class Service:
    """A running simulator, its client, and a raw session that carries the secret."""

    url: str
    gateway: SimulatorGateway
    http: aiohttp.ClientSession
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def ask(self, method: str, path: str, **kwargs: Any) -> tuple[int, Any]:
        async with self.http.request(method, self.url + path, **kwargs) as response:
            return response.status, await response.json(content_type=None)

    async def post_charge(self, key: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        return await self.ask("POST", "/v1/charges", json=body or BODY, headers={"Idempotency-Key": key})

    async def set_faults(self, **faults: float) -> None:
        status, _ = await self.ask("PUT", "/v1/faults", json=faults)
        assert status == 200

    async def entry(self, key: str) -> LedgerEntry | None:
        return {entry.key: entry async for entry in self.gateway.ledger()}.get(key)

    async def until_pending(self, key: str) -> None:
        """Wait until a charge sent by another task has arrived."""
        async with asyncio.timeout(SOON_S):
            while (await self.ask("GET", f"/v1/charges/{key}"))[0] == 404:
                pass


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Service]:
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    ready, stop = asyncio.Event(), asyncio.Event()
    values = {"latency_mean_s": 0.0, "decline_rate": 0.0, **settings}
    task = asyncio.create_task(
        run_simulator(SimulatorSettings(**values), SECRET, sock=sock, ready=ready.set, stop=stop)
    )
    await asyncio.wait([task, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with (
        SimulatorGateway(url, SECRET, connections_max=720) as gateway,
        aiohttp.ClientSession(headers=headers) as http,
    ):
        try:
            yield Service(url=url, gateway=gateway, http=http, stop=stop, task=task)
        finally:
            stop.set()
            await task


def http_answer(status: str, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers])
    return head.encode() + b"\r\n\r\n" + body


def said(status: str, **changes: Any) -> bytes:
    return json.dumps({"id": "ch_1", "key": "key", "status": status, **BODY, **changes}).encode()
