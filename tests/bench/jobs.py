"""Order and payment jobs: how many a second, and how many payments one process holds at once."""

from __future__ import annotations

import asyncio
import itertools
import signal
from typing import TYPE_CHECKING

import aiohttp
import asyncpg

from flashsale.demo.sale import create_product
from flashsale.local.children import pss_bytes
from tests.bench.bench import CONNECTIONS, Bench, buys, only
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.press import press
from tests.support.api import buyer_tokens

if TYPE_CHECKING:
    from flashsale.local.stack import Stack

POLL_S = 0.05
MB = 10**6

PATIENT = {
    "FLASHSALE_SIMULATOR__DECLINE_RATE": "0",
    "FLASHSALE_ORDERS__ORDER_DUE_S": "120",
    "FLASHSALE_ORDERS__PAYMENT_DUE_S": "120",
}
"""No order is due before its job has had time, so that no sweep defers a second one."""


async def jobs(bench: Bench) -> None:
    """From queued to confirmed, with a gateway that answers at once: the workers alone, and during accepts."""
    orders = 3_000
    environment = {**PATIENT, "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0"}
    together, alone = [], []
    async with bench.stack("jobs", environment=environment, api=2, orders=1, payments=2) as stack:
        tokens = buyer_tokens(stack, orders)
        for _ in range(bench.rounds):
            product_id = await _sell(stack, orders, tokens)
            together.append(orders / await _confirmed_s(stack, product_id, orders, "min(created_at)"))
            _signal_workers(stack, signal.SIGSTOP)
            product_id = await _sell(stack, orders, tokens)
            _signal_workers(stack, signal.SIGCONT)
            alone.append(orders / await _confirmed_s(stack, product_id, orders, "max(created_at)"))
    for name, runs in (
        ("orders from queued to confirmed, two payment workers", alone),
        ("the same, while they are still being accepted", together),
    ):
        bench.figures.append(Figure(name=name, unit="/s", runs=runs, aims=(at_least(1_000),)))


async def held(bench: Bench) -> None:
    """Payments that one worker process waits for at once, with a gateway that takes seconds."""
    orders = 1_000
    environment = {
        **PATIENT,
        "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "8",
        "FLASHSALE_SIMULATOR__LATENCY_SIGMA": "0",
        "FLASHSALE_PAYMENTS__TIMEOUT_S": "30",
    }
    async with bench.stack("payments held", environment=environment, api=2, orders=1, payments=1) as stack:
        product_id = await _sell(stack, orders, buyer_tokens(stack, orders))
        confirming = asyncio.create_task(_confirmed_s(stack, product_id, orders, "min(created_at)"))
        most, most_pss = 0, 0
        async with aiohttp.ClientSession(headers=_authorization(stack), raise_for_status=True) as session:
            while not confirming.done():
                async with session.get(f"{stack.gateway_url}/v1/ledger/summary") as response:
                    most = max(most, (await response.json())["running"])
                most_pss = max(most_pss, pss_bytes(stack.children["payments"][0].pid))
                await asyncio.sleep(POLL_S)
        await confirming
    name = "payments held at once by one worker process"
    bench.figures.append(Figure(name=name, unit="", runs=[most], aims=(at_least(720),)))
    bench.figures.append(Figure(name="its memory (PSS)", unit="MB", runs=[most_pss / MB], aims=(at_most(300),)))


async def _sell(stack: Stack, orders: int, tokens: list[str]) -> int:
    """Have so many orders accepted; returns their product."""
    product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": orders})
    requests = itertools.islice(buys(stack, product_id, tokens), orders)
    only(await press(stack.base_url, requests, connections=CONNECTIONS, seconds=60), b"202")
    return product_id


def _signal_workers(stack: Stack, number: signal.Signals) -> None:
    for role in ("orders", "payments"):
        for child in stack.children[role]:
            child.send(number)


def _authorization(stack: Stack) -> dict[str, str]:
    return {"Authorization": f"Bearer {stack.secrets['gateway_secret']}"}


async def _confirmed_s(stack: Stack, product_id: int, orders: int, since: str) -> float:
    """Wait until all are confirmed; returns the seconds from the accept that `since` says to the last confirmation."""
    confirmed = "SELECT count(*) FROM orders WHERE product_id = $1 AND status = 'confirmed'"
    took = f"SELECT extract(EPOCH FROM max(updated_at) - {since})::float8 FROM orders WHERE product_id = $1"
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        async with asyncio.timeout(180):
            while await connection.fetchval(confirmed, product_id) < orders:
                await asyncio.sleep(POLL_S)
        took_s: float = await connection.fetchval(took, product_id)
        return took_s
    finally:
        await connection.close()
