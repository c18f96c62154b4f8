"""A whole sale: how its time and its cost grow with its size, and the memory of the stack while it runs."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
from redis.asyncio import Redis

from flashsale.demo.sale import Sale, create_product, open_sale
from tests.bench.bench import Bench, buys, only
from tests.bench.figures import Figure, at_most
from tests.bench.press import press
from tests.support.api import buyer_tokens

if TYPE_CHECKING:
    from flashsale.local.stack import Stack

SIZES = (1_000, 10_000, 100_000)
DEMAND = 3
"""Buys for each unit."""
BUYERS = 30_000
"""They press one after the other, again and again if the demand is larger."""
CONNECTIONS = 256
MIB = 2**20
FLAT = 1.2
"""Cost of an order over that in a sale of a tenth of the size, at most."""


@dataclass(slots=True)
class Cost:
    """Processor time so far: of the gate's scripts, and of the accept function, its waits included."""

    gate_us: float
    accept_us: float


@dataclass(slots=True)
class Sold:
    """One sale: seconds to the last 202, and microseconds in the gate for each buy, in the accept function each order."""

    last_s: float
    gate_us: float
    accept_us: float


async def sale(bench: Bench) -> None:
    """Sales of growing size: time to the last 202; and, without workers that take their part of the processors, costs.

    The costs are what a buy takes in the gate and what an order takes in Postgres' accept function.
    """
    # Nobody is declined: units that come back would be sold again, long after the first were gone. More orders may wait
    # than the workers end in time: none is due, and so deferred again, before its job has had its turn.
    environment = {
        "FLASHSALE_ORDERS__WAITING_MAX": "10000000",
        "FLASHSALE_ORDERS__ORDER_DUE_S": "3600",
        "FLASHSALE_ORDERS__PAYMENT_DUE_S": "3600",
        "FLASHSALE_SIMULATOR__DECLINE_RATE": "0",
    }
    async with bench.stack("sale", environment=environment, api=2, orders=1, payments=1) as stack:
        whole = await _grow(bench, stack)
    async with bench.stack("sale without workers", environment=environment, api=2, orders=0, payments=0) as stack:
        alone = await _grow(bench, stack)
    for smaller, size in zip((None, *SIZES), SIZES, strict=False):
        for name, unit, sold, value, control, limit in (
            ("last 202", "s", whole, lambda one: one.last_s, "ten times that of a tenth", 1.0),
            ("gate, each buy, no workers", "us", alone, lambda one: one.gate_us, "in a tenth", FLAT),
            ("accept function, each order, no workers", "us", alone, lambda one: one.accept_us, "in a tenth", FLAT),
        ):
            factor = size / smaller if smaller and unit == "s" else 1
            bench.figures.append(
                Figure(
                    name=f"sale of {size:,} units, {DEMAND} buys each: {name}",
                    unit=unit,
                    runs=[value(one) for one in sold[size]],
                    control=control if smaller else "",
                    control_runs=[factor * value(one) for one in sold[smaller]] if smaller else [],
                    aims=(at_most(limit, of="ratio"),) if smaller else (),
                )
            )


async def _grow(bench: Bench, stack: Stack) -> dict[int, list[Sold]]:
    """Hold a sale of each size, again and again."""
    sold: dict[int, list[Sold]] = {size: [] for size in SIZES}
    tokens = buyer_tokens(stack, BUYERS)
    for _, size in itertools.product(range(bench.rounds), SIZES):
        product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": size})
        requests = itertools.islice(buys(stack, product_id, tokens), DEMAND * size)
        before = await _cost(stack)
        pressed = only(await press(stack.base_url, requests, connections=CONNECTIONS, seconds=600), b"202", b"409")
        after = await _cost(stack)
        assert pressed.statuses[b"202"] == size, pressed.statuses
        last_s = pressed.last_s[b"202"]
        sold[size].append(
            Sold(
                last_s=last_s,
                gate_us=(after.gate_us - before.gate_us) / (DEMAND * size),
                accept_us=(after.accept_us - before.accept_us) / size,
            )
        )
        bench.say(f"{size:,} units: last 202 after {last_s:.1f} s")
    return sold


async def _cost(stack: Stack) -> Cost:
    """Read what the servers count; Postgres counts functions once it is told to."""
    async with Redis.from_url(stack.environment["FLASHSALE_REDIS__URL"]) as redis:
        commands = await redis.info("commandstats")
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        if await connection.fetchval("SHOW track_functions") == "none":
            await connection.execute("ALTER SYSTEM SET track_functions = 'pl'")
            await connection.execute("SELECT pg_reload_conf()")
        # A session that has gone idle hands its counts over after 10 s (PGSTAT_IDLE_INTERVAL).
        await asyncio.sleep(11)
        total_ms = await connection.fetchval(
            "SELECT coalesce(sum(total_time), 0)::float8 FROM pg_stat_user_functions"
            " WHERE starts_with(funcname, 'accept_orders_v')"
        )
    finally:
        await connection.close()
    return Cost(gate_us=commands.get("cmdstat_evalsha", {"usec": 0})["usec"], accept_us=1000 * total_ms)


async def memory(bench: Bench) -> None:
    """The stack's memory in a sale of 1,000 units to 100,000 buyers, from the first of them to the last final order."""
    wanted = Sale(units=1_000, buyers=100_000, seconds=60)
    sizes: list[dict[str, int]] = []
    async with (
        bench.stack("memory", api=2, orders=1, payments=1) as stack,
        open_sale(stack, wanted, bench.folder) as run,
    ):
        await run.prepare()
        run.begin()
        await run.watch(lambda _: sizes.append(stack.pss_bytes()), every_s=1, deadline_s=300)
        code, findings = await run.audit()
        assert code == 0, findings
    most = max(sizes, key=lambda size: sum(size.values()))
    bench.say("PSS in MiB: " + ", ".join(f"{role} {size / MIB:.0f}" for role, size in sorted(most.items())))
    bench.figures.append(
        Figure(
            name=f"memory of the stack, {wanted.units:,} units, {wanted.buyers:,} buyers in {wanted.seconds:g} s: most",
            unit="MiB",
            runs=[sum(most.values()) / MIB],
            aims=(at_most(0.7 * 1024),),
        )
    )
