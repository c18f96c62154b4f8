"""Many products on sale that nobody buys: what they cost, and what they hold up when the gate loses everything."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from redis.asyncio import Redis
from rich.table import Table

from flashsale.demo.sale import create_product
from flashsale.local.stack import Stack
from tests.faults.scene import wait_for_postgres
from tests.support.api import buyer_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

COUNTS = (500, 1500)
IDLE_S = 8.0
LOADED_WITHIN_S = 120.0
WINDOW_S = 2
LATE_MAX_S = 3.0
"""Longest time from the end of an order's payment window to its expiry: a sweep a second, and a busy machine."""

BULK = """
WITH made AS (
    INSERT INTO products (name, price_minor, currency, allotment, payment_mode, payment_window_s)
    SELECT 'Phone ' || n, 100, 'USD', 10, 'automatic', 300 FROM generate_series(1, $1::integer) AS n
    RETURNING product_id
),
counted AS (
    INSERT INTO product_live (product_id, free) SELECT product_id, 10 FROM made
)
INSERT INTO units (product_id, unit_no) SELECT m.product_id, n FROM made AS m CROSS JOIN generate_series(1, 10) AS n
"""


async def many_products(folder: Path, say: Callable[[str | Table], None], counts: tuple[int, ...] = COUNTS) -> bool:
    """Flush the gate of many idle products while an order must expire; true if it does in time."""
    table = Table(
        *("products", "idle: statements/s", "scripts/s", "maintenance CPU", "API CPU"),
        *("after FLUSHALL: expiry late by s", "all loaded after s"),
        title="many idle products",
        title_justify="left",
    )
    right = True
    for count in counts:
        environment = {"FLASHSALE_LOG__LEVEL": "warning"}
        async with Stack(folder / str(count), port=0, environment=environment) as stack:
            connection = await wait_for_postgres(stack)
            async with Redis.from_url(stack.environment["FLASHSALE_REDIS__URL"], decode_responses=True) as redis:
                await connection.execute(BULK.replace("$1", str(count)))
                product = {"name": "Ticket", "price": "1", "stock": 10, "paymentMode": "by_buyer"}
                product_id = await create_product(stack, {**product, "paymentWindowS": WINDOW_S})
                await _until_loaded(redis, count + 1)
                idle = await _idle(stack, connection, redis)
                token = buyer_tokens(stack, 1)[0]
                await redis.flushall()
                late_s, loaded_s = await asyncio.gather(
                    _expiry(stack, connection, product_id, token), _until_loaded(redis, count + 1)
                )
            await connection.close()
        table.add_row(f"{count:,}", *idle, f"{late_s:.1f}", f"{loaded_s:.1f}")
        right = right and late_s < LATE_MAX_S
    say(table)
    return right


async def _until_loaded(redis: Redis, count: int) -> float:
    """Wait until so many gates are loaded; returns how long that took, at most LOADED_WITHIN_S."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < LOADED_WITHIN_S:
        if len([key async for key in redis.scan_iter("flashsale:*:epoch", count=5000)]) >= count:
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - began_s


async def _idle(stack: Stack, connection: asyncpg.Connection[asyncpg.Record], redis: Redis) -> list[str]:
    async def figures() -> tuple[float, float, float, float]:
        commits = await connection.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
        scripts = (await redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
        return commits, scripts, _cpu_s(stack, "maintenance"), _cpu_s(stack, "api")

    await asyncio.sleep(3)
    began_s, before = time.monotonic(), await figures()
    await asyncio.sleep(IDLE_S)
    lasted_s, after = time.monotonic() - began_s, await figures()
    commits, scripts, maintenance, api = ((now - then) / lasted_s for now, then in zip(after, before, strict=True))
    return [f"{commits:,.0f}", f"{scripts:,.0f}", f"{maintenance:.1%}", f"{api:.1%}"]


def _cpu_s(stack: Stack, role: str) -> float:
    """Return the processor time of a role's processes."""
    ticks = 0
    for child in stack.children[role]:
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def _expiry(stack: Stack, connection: asyncpg.Connection[asyncpg.Record], product_id: int, token: str) -> float:
    """Buy and do not pay; returns how long after its window the order expires."""
    async with aiohttp.ClientSession(stack.base_url, raise_for_status=True) as session:
        headers = {"Authorization": f"Bearer {token}"}
        async with session.post("/api/order/buy-flash", json={"productId": product_id}, headers=headers) as response:
            order_id = (await response.json())["orderId"]
    query = (
        "SELECT extract(EPOCH FROM max(at) FILTER (WHERE status = 'expired') -"
        " max(at) FILTER (WHERE status = 'awaiting_payment'))::float8 FROM order_events WHERE order_id = $1"
    )
    ends_s = time.monotonic() + LOADED_WITHIN_S
    while time.monotonic() < ends_s:
        took_s: float | None = await connection.fetchval(query, order_id)
        if took_s is not None:
            return took_s - WINDOW_S
        await asyncio.sleep(0.1)
    return LOADED_WITHIN_S
