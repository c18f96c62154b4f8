"""What nearly everybody is told: sold-out buys and status polls a second, and the slowest of a hundred."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import asyncpg

from flashsale.demo.sale import create_product
from tests.bench.bench import CONNECTIONS, USERS, Bench, buys, only
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.plots import Plot
from tests.bench.press import Pressed, press
from tests.support.api import buyer_tokens

CROWD = 2_000
"""Connections of a crowd."""

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashsale.local.stack import Stack


async def sold_out(bench: Bench) -> None:
    """The answer that nearly everybody gets."""
    # One buyer asks for one order, far more often than a buyer may.
    no_limit = {"FLASHSALE_LIMITS__ORDERS": "0"}
    async with (
        bench.stack("sold out, status", environment=no_limit, api=1, orders=1, payments=1) as stack,
        bench.hello(1) as hello,
    ):
        empty = await create_product(stack, {"name": "Phone", "price": "1", "stock": 0})
        full = await create_product(stack, {"name": "Phone", "price": "1", "stock": 10})
        tokens = buyer_tokens(stack, USERS)
        warm, keyed = buys(stack, empty, tokens), buys(stack, empty, tokens, keyed=True)

        async def measure(url: str, requests: Iterator[bytes], *statuses: bytes) -> Pressed:
            return only(await press(url, requests, connections=CONNECTIONS, seconds=bench.seconds), *statuses)

        cold = only(
            await press(stack.base_url, itertools.islice(warm, USERS), connections=CONNECTIONS, seconds=60), b"409"
        )
        bought = await press(stack.base_url, itertools.islice(buys(stack, full, tokens), 1), connections=1, seconds=5)
        only(bought, b"202")
        order_id = await _one_order(stack)
        polls = itertools.repeat(
            f"GET /api/order/{order_id}/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tokens[0]}\r\n\r\n".encode()
        )
        runs, with_key, polled, control = await bench.alternate(
            lambda: measure(stack.base_url, warm, b"409"),
            lambda: measure(stack.base_url, keyed, b"409"),
            lambda: measure(stack.base_url, polls, b"200"),
            lambda: measure(hello[0].url, warm, b"200"),
        )
    bare = {"control": "bare ASGI hello", "control_runs": [run.rate for run in control]}
    add = bench.figures.append
    add(
        Figure(
            name="sold-out buys, one process",
            unit="/s",
            runs=[run.rate for run in runs],
            aims=(at_least(0.5, of="ratio"),),
            **bare,
        )
    )
    add(
        Figure(
            name="the same, each with a key",
            unit="/s",
            runs=[run.rate for run in with_key],
            aims=(at_least(0.4, of="ratio"),),
            **bare,
        )
    )
    add(Figure(name="the same, each token new", unit="/s", runs=[cold.rate], **bare))
    add(
        Figure(
            name="status polls, one process",
            unit="/s",
            runs=[run.rate for run in polled],
            aims=(at_least(0.3, of="ratio"),),
            **bare,
        )
    )


async def latency(bench: Bench) -> None:
    """How long the slowest of a hundred waits for a no."""
    async with bench.stack("latency", api=2, orders=1, payments=1) as stack, bench.hello(2) as hello:
        empty = await create_product(stack, {"name": "Phone", "price": "1", "stock": 0})
        requests = buys(stack, empty, buyer_tokens(stack, USERS))
        await press(stack.base_url, itertools.islice(requests, 2 * USERS), connections=CONNECTIONS, seconds=60)
        for connections in (64, 300):
            runs, control = await bench.alternate(
                lambda connections=connections: press(
                    stack.base_url, requests, connections=connections, seconds=bench.seconds
                ),
                lambda connections=connections: press(
                    hello[0].url, requests, connections=connections, seconds=bench.seconds
                ),
            )
            bench.plots[f"sold-out-{connections}"] = Plot(
                f"sold-out buys, two processes, {connections} connections",
                {"flashsale": runs, "bare ASGI hello": control},
            )
            bench.figures.append(
                Figure(
                    name=f"sold-out p99, two processes, {connections} connections",
                    unit="ms",
                    runs=[only(run, b"409").percentile_ms(0.99) for run in runs],
                    control="bare ASGI hello",
                    control_runs=[run.percentile_ms(0.99) for run in control],
                    aims=(at_most(3, of="ratio"),),
                )
            )


async def crowded(bench: Bench) -> None:
    """The same over 2,000 connections to one process."""
    async with bench.stack("crowded", api=1, orders=1, payments=1) as stack, bench.hello(1) as hello:
        empty = await create_product(stack, {"name": "Phone", "price": "1", "stock": 0})
        requests = buys(stack, empty, buyer_tokens(stack, USERS))
        await press(stack.base_url, itertools.islice(requests, 2 * USERS), connections=CONNECTIONS, seconds=60)
        runs, control = await bench.alternate(
            lambda: press(stack.base_url, requests, connections=CROWD, seconds=bench.seconds),
            lambda: press(hello[0].url, requests, connections=CROWD, seconds=bench.seconds),
        )
    bench.figures.append(
        Figure(
            name=f"sold-out buys, one process, {CROWD:,} connections",
            unit="/s",
            runs=[only(run, b"409").rate for run in runs],
            control="bare ASGI hello",
            control_runs=[run.rate for run in control],
            aims=(at_least(0.5, of="ratio"),),
        )
    )


async def _one_order(stack: Stack) -> str:
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        return str(await connection.fetchval("SELECT order_id FROM orders"))
    finally:
        await connection.close()
