"""The providers that the cells run against: the simulator in this process, and localstripe in a process of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import stripe

from tests.conformance.cells import Provider
from tests.support.gateway import SECRET
from tests.support.stripe_dialect import dialect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START_S = 20.0
LOCAL_SECRET = "whsec_localstripe"


@asynccontextmanager
async def client(url: str, key: str) -> AsyncIterator[stripe.StripeClient]:
    """Open the official library; it never repeats a call by itself."""
    http = stripe.AIOHTTPClient()
    try:
        yield stripe.StripeClient(key, base_addresses={"api": url}, http_client=http, max_network_retries=0)
    finally:
        await http.close_async()


@asynccontextmanager
async def simulator() -> AsyncIterator[Provider]:
    async with dialect(webhook_retry_s=0.05) as running, client(running.service.url, SECRET) as library:

        async def listen(url: str) -> str:
            made = await library.v1.webhook_endpoints.create_async({"url": url, "enabled_events": ["*"]})
            return str(made.secret)

        yield Provider(name="simulator", client=library, listen=listen)


@asynccontextmanager
async def localstripe(python: str) -> AsyncIterator[Provider]:
    """Run localstripe with the interpreter (an absolute path) of an environment that has it; it is never imported here."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as directory:
        process = await asyncio.create_subprocess_exec(
            python,
            *("-m", "localstripe", "--from-scratch", "--port", str(port)),
            cwd=directory,
            env={**os.environ, "TMPDIR": directory},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with aiohttp.ClientSession() as http, client(url, "sk_test_local") as library:
                async with asyncio.timeout(START_S):
                    while process.returncode is None and not await _answers(http, url):
                        await asyncio.sleep(0.05)

                async def listen(target: str) -> str:
                    form = {"url": target, "secret": LOCAL_SECRET}
                    async with http.post(f"{url}/_config/webhooks/conformance", data=form) as response:
                        response.raise_for_status()
                    return LOCAL_SECRET

                yield Provider(name="localstripe", client=library, listen=listen)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}/v1/events", headers={"Authorization": "Bearer sk_test_local"}) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False
