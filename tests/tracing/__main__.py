"""Print one order's trace through real processes as text; ends with 1 if it is not whole: `python -m tests.tracing`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import asyncpg

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.outbox import PostgresOutbox
from tests.conftest import make_settings
from tests.payments.stack import StripeStack
from tests.support.api import FAST, admin_headers, audit, buyer_headers
from tests.support.collector import collecting
from tests.support.receiver import receiving
from tests.tracing.journey import Buyer
from tests.tracing.tree import faults, text

if TYPE_CHECKING:
    from flashsale.local.stack import Stack
    from tests.support.collector import Collector
    from tests.tracing.journey import Journey

SECRET = "whsec_" + "A" * 43 + "="
SENT = "SELECT count(*) FROM outbox WHERE outcome = 'delivered'"


async def main() -> int:
    """Sell one unit, and print its trace."""
    async with AsyncExitStack() as opened:
        collector = await opened.enter_async_context(collecting())
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="flashsale-tracing-")))
        tracing = {"FLASHSALE_TRACING__OTLP_URL": collector.url, "FLASHSALE_TRACING__RATIO": "1"}
        stack = StripeStack(folder, port=0, mail=True, environment={**FAST, **tracing})
        opened.push_async_callback(stack.stop)
        await stack.start()
        journey = await _sell(opened, stack)
        audited = await asyncio.to_thread(audit, stack)
        async with asyncio.timeout(60):
            while wrong := _wrong(collector, journey):
                await collector.was_asked(collector.asked + 1)
    sys.stdout.write(f"{text(collector.spans, journey.trace_id)}\n")
    sys.stdout.write(f"states in the stream: {', '.join(journey.states)}\n{audited.stdout.splitlines()[-1]}\n")
    return 1 if wrong or audited.returncode else 0


async def _sell(opened: AsyncExitStack, stack: Stack) -> Journey:
    receiver = await opened.enter_async_context(receiving())
    http = await opened.enter_async_context(aiohttp.ClientSession())
    database = Database(
        make_settings(stack.environment["FLASHSALE_POSTGRES__OWNER_URL"], "redis://x").postgres, name="t"
    )
    opened.push_async_callback(database.close)
    await database.open()
    await PostgresOutbox(database).add_endpoint("wh_a", receiver.url, SECRET, ["order.confirmed"], targets_max=20)
    product = {"name": "Phone", "price": "999.99", "stock": 1, "paymentMode": "by_buyer", "paymentWindowS": 3600}
    headers = await asyncio.to_thread(admin_headers, stack)
    async with http.post(f"{stack.base_url}/api/admin/products", json=product, headers=headers) as answer:
        product_id = (await answer.json())["id"]
    (buyer_s,) = await asyncio.to_thread(buyer_headers, stack, 1)
    buyer = Buyer(base_url=stack.base_url, provider_url=stack.gateway_url, headers=buyer_s, http=http)
    journey = await buyer.buy(product_id)
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__OWNER_URL"])
    async with asyncio.timeout(60):
        while await connection.fetchval(SENT) < 2:
            await asyncio.sleep(0.1)
    await connection.close()
    return journey


def _wrong(collector: Collector, journey: Journey) -> list[str]:
    return list(faults(collector.spans, journey.trace_id, journey.caller_id))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
