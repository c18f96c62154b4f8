"""Order and payment jobs a second."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import asyncpg

from flashsale.local.sale import create_product
from tests.bench.bench import CONNECTIONS, Bench, buys, only
from tests.bench.figures import Figure, at_least
from tests.bench.press import press

if TYPE_CHECKING:
    from flashsale.local.stack import Stack

POLL_S = 0.05


async def jobs(bench: Bench) -> None:
    """From 202 to confirmed, with a gateway that answers at once."""
    environment = {
        "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0",
        "FLASHSALE_SIMULATOR__DECLINE_RATE": "0",
        "FLASHSALE_ORDERS__ORDER_DUE_S": "120",
        "FLASHSALE_ORDERS__PAYMENT_DUE_S": "120",
    }
    orders = 3_000
    rates = []
    async with bench.stack("jobs", environment=environment, api=2, orders=1, payments=2) as stack:
        tokens = bench.tokens(stack, orders)
        for _ in range(bench.rounds):
            product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": orders})
            requests = itertools.islice(buys(stack, product_id, tokens), orders)
            only(await press(stack.base_url, requests, connections=CONNECTIONS, seconds=60), b"202")
            rates.append(await _confirmed_per_s(stack, product_id, orders))
    bench.figures.append(
        Figure(name="orders from 202 to confirmed, two payment workers", unit="/s", runs=rates, aims=(at_least(1_000),))
    )


async def _confirmed_per_s(stack: Stack, product_id: int, orders: int) -> float:
    confirmed = "SELECT count(*) FROM orders WHERE product_id = $1 AND status = 'confirmed'"
    took = (
        "SELECT extract(EPOCH FROM max(updated_at) - min(created_at))::float8 FROM orders "
        "WHERE product_id = $1 AND status = 'confirmed'"
    )
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        async with asyncio.timeout(180):
            while await connection.fetchval(confirmed, product_id) < orders:
                await asyncio.sleep(POLL_S)
        took_s: float = await connection.fetchval(took, product_id)
        return orders / took_s
    finally:
        await connection.close()
