"""A whole sale: how its time and its cost grow with its size, and the memory of the stack while it runs."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
from redis.asyncio import Redis

from flashsale.local.sale import Sale, create_product, open_sale
from tests.api.conftest import buyer_tokens
from tests.bench.bench import Bench, buys, only
from tests.bench.figures import Figure, at_most
from tests.bench.press import press

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
    claim_us: float


async def sale(bench: Bench) -> None:
    """Sales of growing size: time to the last 202, and what a buy costs the gate and an order costs Postgres."""
    # Nobody is declined: units that come back would be sold again, long after the first were gone.
    environment = {"FLASHSALE_ORDERS__WAITING_MAX": "10000000", "FLASHSALE_SIMULATOR__DECLINE_RATE": "0"}
    took_s: dict[int, list[float]] = {size: [] for size in SIZES}
    gate_us: dict[int, list[float]] = {size: [] for size in SIZES}
    claim_us: dict[int, list[float]] = {size: [] for size in SIZES}
    async with bench.stack("sale", environment=environment, api=2, orders=1, payments=1) as stack:
        tokens = buyer_tokens(stack, BUYERS)
        for _, size in itertools.product(range(bench.rounds), SIZES):
            product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": size})
            requests = itertools.islice(buys(stack, product_id, tokens), DEMAND * size)
            before = await _cost(stack)
            pressed = only(await press(stack.base_url, requests, connections=CONNECTIONS, seconds=600), b"202", b"409")
            after = await _cost(stack)
            assert pressed.statuses[b"202"] == size, pressed.statuses
            took_s[size].append(pressed.last_s[b"202"])
            gate_us[size].append((after.gate_us - before.gate_us) / (DEMAND * size))
            claim_us[size].append((after.claim_us - before.claim_us) / size)
            bench.say(f"{size:,} units: last 202 after {pressed.last_s[b'202']:.1f} s")
    for smaller, size in zip((None, *SIZES), SIZES, strict=False):
        for name, unit, runs, control, limit in (
            ("last 202", "s", took_s, "ten times that of a tenth", 1.0),
            ("gate, each buy", "us", gate_us, "in a tenth", FLAT),
            ("accept function, each order", "us", claim_us, "in a tenth", FLAT),
        ):
            factor = size / smaller if smaller and unit == "s" else 1
            bench.figures.append(
                Figure(
                    name=f"sale of {size:,} units, {DEMAND} buys each: {name}",
                    unit=unit,
                    runs=runs[size],
                    control=control if smaller else "",
                    control_runs=[factor * run for run in runs[smaller]] if smaller else [],
                    aims=(at_most(limit, of="ratio"),) if smaller else (),
                )
            )


async def _cost(stack: Stack) -> Cost:
    """Read what the servers count; Postgres counts functions once it is told to."""
    async with Redis.from_url(stack.environment["FLASHSALE_REDIS__URL"]) as redis:
        commands = await redis.info("commandstats")
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        if await connection.fetchval("SHOW track_functions") == "none":
            await connection.execute("ALTER SYSTEM SET track_functions = 'pl'")
            await connection.execute("SELECT pg_reload_conf()")
        # Sessions hand their counts over at most once a second.
        await asyncio.sleep(1.5)
        total_ms = await connection.fetchval(
            "SELECT coalesce(sum(total_time), 0)::float8 FROM pg_stat_user_functions WHERE funcname = 'accept_orders_v1'"
        )
    finally:
        await connection.close()
    return Cost(gate_us=commands.get("cmdstat_evalsha", {"usec": 0})["usec"], claim_us=1000 * total_ms)


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
