"""A product whose allotment is raised by half a million units, while buyers of another product press."""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING

import aiohttp
from rich.table import Table

from flashsale.demo.sale import create_product
from flashsale.local.stack import Stack
from tests.faults.pressure import press
from tests.support.api import admin_headers, buyer_tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RAISE = 500_000
PAIRS, PRESS_S, CLIENTS = 5, 4.0, 16
AIM = 2.0
ENVIRONMENT = {
    "FLASHSALE_GATE__RATE_LIMIT": "0",
    "FLASHSALE_LIMITS__ORDERS": "0",
    "FLASHSALE_LIMITS__ADMINISTRATION": "0",
    "FLASHSALE_ORDERS__WAITING_MAX": "1000000",
    "FLASHSALE_LOG__LEVEL": "error",
}


async def raised(folder: Path, say: Callable[[str | Table], None]) -> bool:
    """Press one product, at rest and while the other is raised; true if p99 is at most twice that of rest."""
    p99_ms: dict[bool, list[float]] = {False: [], True: []}
    answers: set[int] = set()
    async with Stack(folder, port=0, environment=ENVIRONMENT) as stack:
        bought = await create_product(stack, {"name": "Phone", "price": "1", "stock": 1_000_000})
        tokens = buyer_tokens(stack, 1000)
        headers = await asyncio.to_thread(admin_headers, stack)
        await press(stack, bought, tokens, clients=CLIENTS, seconds=PRESS_S)
        async with aiohttp.ClientSession(stack.base_url, headers=headers, raise_for_status=True) as session:
            for _ in range(PAIRS):
                other = await create_product(stack, {"name": "Ticket", "price": "1", "stock": 1000})
                p99_ms[False].append((await press(stack, bought, tokens, clients=CLIENTS, seconds=PRESS_S)).p99_ms())
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(press(stack, bought, tokens, clients=CLIENTS, seconds=PRESS_S))
                    body = {"productId": other, "stock": 1000 + RAISE}
                    async with session.post("/api/admin/stock", json=body):
                        pass
                pressed = task.result()
                answers |= set(pressed.statuses)
                p99_ms[True].append(pressed.p99_ms())
    # In pairs: what else the machine does changes from one to the next.
    ratio = statistics.median(during / rest for rest, during in zip(p99_ms[False], p99_ms[True], strict=True))
    table = Table("the other product", "buy p99 ms, each run", "median", title=f"raised by {RAISE:,} units")
    for busy, name in ((False, "at rest"), (True, "raised")):
        runs = p99_ms[busy]
        table.add_row(name, ", ".join(f"{one:.0f}" for one in runs), f"{statistics.median(runs):.0f}")
    say(table)
    say(f"ratio of each pair, median: {ratio:.2f} (aim: at most {AIM:g}); answers {sorted(answers)}")
    return ratio <= AIM and answers == {202}
