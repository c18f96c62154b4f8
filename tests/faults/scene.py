"""One sale with a fault in its middle, and what came of it."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
from redis.asyncio import Redis

from flashsale.adapters.postgres.sale import DOWN
from flashsale.demo.sale import Sale, SaleRun, Seen, open_sale
from flashsale.local.stack import Stack
from tests.payments.sale import read_ledger, until_quiet
from tests.payments.stack import StripeStack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

LOOK_S = 0.25
DEADLINE_S = 150.0
RESTART_S = 0.5
"""Pause before a killed process is started again, as `flashsale up` and containers do."""

FINDING = re.compile(r"^(I\d+) +VIOLATED +([\d,]+) of", re.MULTILINE)

FAILED = ("no_answer", "5xx_other_than_503")
"""Names in the load generator's summary. A 503 with Retry-After is an answer: while the last units are being decided on,
buyers are asked to send the same request again.
"""

UNAVAILABLE = 503
SHOWN_MAX = 20

STUCK_FINAL = """
SELECT extract(EPOCH FROM max(o.updated_at))::float8
FROM orders AS o WHERE o.product_id = $1 AND o.created_at <= to_timestamp($2) AND o.due_at IS NULL
"""


class Scene:
    """What a fault may touch: the stack, the sale, a random source, and the clock's two marks."""

    def __init__(self, stack: Stack, run: SaleRun, seed: str) -> None:
        """Draw from `seed`."""
        self.stack = stack
        self.run = run
        self.random = random.Random(seed)
        self.fault_at = 0.0
        self.repaired_at = 0.0
        """Unix seconds: when the fault began, and when its cause was gone."""
        self.gate_loaded_s: float | None = None
        """From the cause being gone to every API process saying that its gate is loaded."""

    async def until_claimed(self, units: int) -> None:
        """Wait until so many units are claimed, and begin the fault."""
        while True:
            seen = await self.run.look()
            if seen is not None and self.run.sale.units - seen.free >= units:
                break
            await asyncio.sleep(0.01)
        self.fault_at = time.time()

    async def in_payment(self) -> None:
        """Wait until a random small part of the orders is at the gateway, and begin the fault."""
        units = self.run.sale.units
        orders = self.random.randint(max(1, units // 50), units // 12)
        while True:
            seen = await self.run.look()
            if seen is not None and seen.orders.get("processing_payment", 0) >= orders:
                break
            await asyncio.sleep(0.01)
        self.fault_at = time.time()

    async def mid_sale(self) -> None:
        """Wait until a random part of the units is claimed, and begin the fault."""
        units = self.run.sale.units
        await self.until_claimed(self.random.randint(units // 5, units * 7 // 10))

    def repaired(self) -> None:
        """Take note that the cause is gone."""
        self.repaired_at = time.time()

    async def start_again(self, role: str, index: int) -> None:
        """Start a killed process again, as a supervisor does."""
        await asyncio.sleep(RESTART_S)
        await self.stack.start_child(role, index)

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Redis]:
        """Return a client of the gate's server."""
        client = Redis.from_url(self.stack.environment["FLASHSALE_REDIS__URL"])
        try:
            yield client
        finally:
            await client.aclose()

    async def gateway_faults(self, **rates: float) -> None:
        """Change what the payment gateway does wrong."""
        headers = {"Authorization": f"Bearer {self.stack.secrets['gateway_secret']}"}
        async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:
            await session.put(f"{self.stack.gateway_url}/v1/faults", json=rates)

    async def until_loaded(self) -> None:
        """Wait until the API says ten times running, over fresh connections, that the gate is loaded."""
        running = 0
        while running < 10:
            async with (
                aiohttp.ClientSession(self.stack.base_url) as session,
                session.get("/health/ready") as response,
            ):
                running = running + 1 if (await response.json()).get("gate") == "loaded" else 0
            if not running:
                await asyncio.sleep(0.01)
        self.gate_loaded_s = time.time() - self.repaired_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A kind of fault."""

    name: str
    disturb: Callable[[Scene], Awaitable[None]]
    unnoticed: bool = False
    """No client may notice: no request without an answer, none answered 5xx, 503 included."""
    stack: type[Stack] = Stack
    """What is disturbed."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """More settings of its processes."""
    deadline_s: float = DEADLINE_S
    """Longest time of the sale; until shortly before it, buyers come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a sale with a fault; times in seconds, None if nothing of the kind happened."""

    cell: str
    seed: int
    units: int
    outcome: dict[str, Any]
    summary: dict[str, float]
    violated: dict[str, int]
    """Violations by invariant; those that the fault excuses are left out."""
    fault_to_202_s: float | None
    repair_to_202_s: float | None
    stuck_final_s: float | None
    """From the fault to the end of the last order that was accepted before its cause was gone."""
    gate_loaded_s: float | None
    problems: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Accepted orders that are not there, not final, or without a way on."""
        return self.violated.get("I4", 0) + self.violated.get("I12", 0)

    @property
    def leaked(self) -> int:
        """Units that were not sold although demand lasted."""
        return max(0, self.units - self.outcome["confirmed"])

    @property
    def oversold(self) -> int:
        """Units sold twice, or more than there were."""
        return max(0, self.outcome["confirmed"] - self.units, self.violated.get("I1", 0) + self.violated.get("I2", 0))

    @property
    def double_charged(self) -> int:
        """Orders with more or less money taken than their price."""
        return self.violated.get("I7", 0)

    @property
    def right(self) -> bool:
        """Whether everything held."""
        return not (self.violated or self.leaked or self.oversold or self.problems)


async def play(stack: Stack, cell: Cell, seed: int, sale: Sale, folder: Path) -> Result:
    """Run a sale on a stack that runs, disturb it, wait until all is final, and audit it."""
    async with open_sale(stack, sale, folder) as run:
        await run.prepare()
        scene = Scene(stack, run, f"{cell.name}:{seed}")
        run.begin()
        disturbing = asyncio.create_task(_disturb(cell, scene))
        problems: list[str] = []

        def show(seen: Seen) -> None:
            if disturbing.done() and seen.orders.get("confirmed", 0) >= sale.units:
                run.satisfy()

        try:
            # Whatever happens, what the fault broke is repaired before the results are read.
            for waited in (run.watch(show, every_s=LOOK_S, deadline_s=cell.deadline_s), disturbing):
                try:
                    await asyncio.wait_for(waited, 2 * cell.deadline_s)
                except Exception as error:  # noqa: BLE001 - a row of the table, whatever it was
                    problems.append(f"{type(error).__name__}: {error}")
        finally:
            disturbing.cancel()
        if run.load.returncode:
            problems.append(str(run.load.failure(f"ended with {run.load.returncode}")))
        if cell.stack is StripeStack:
            problems += await _held(run)
        code, findings = await run.audit()
        violated = {name: int(count.replace(",", "")) for name, count in FINDING.findall(findings)}
        if code and not violated:
            problems.append(findings)
        if violated:
            problems.append(findings)
        summary = run.summary()
        failed = {name: summary[name] for name in FAILED if summary.get(name)}
        if cell.unnoticed and failed:
            problems.append(f"requests failed: {failed}, 503s {_unavailable(run.history)}")
        fault_to_202_s, repair_to_202_s = _recovery(run.history, scene)
        stuck_at = await run.pool.fetchval(STUCK_FINAL, run.product_id, scene.repaired_at)
        return Result(
            cell=cell.name,
            seed=seed,
            units=sale.units,
            outcome=await run.outcome(),
            summary=summary,
            violated=violated,
            fault_to_202_s=fault_to_202_s,
            repair_to_202_s=repair_to_202_s,
            stuck_final_s=None if stuck_at is None or not scene.fault_at else stuck_at - scene.fault_at,
            gate_loaded_s=scene.gate_loaded_s,
            problems=problems,
        )


async def _held(run: SaleRun) -> list[str]:
    """Return the intents whose money is held, and neither taken nor let go, once nothing is due any more."""
    left = await until_quiet(run)
    entries, _ = await read_ledger(run.stack)
    held = [f"{entry['key']} of {entry.get('orderId')} is held" for entry in entries if entry["status"] == "authorized"]
    return held + [f"{count} {what} are still due" for what, count in left.items() if count]


async def _disturb(cell: Cell, scene: Scene) -> None:
    await cell.disturb(scene)
    if not scene.repaired_at:
        scene.repaired()


def _unavailable(history: Path) -> list[tuple[float, str]]:
    """Return when, in seconds after the first request, and under which code buys were answered 503 or not at all."""
    buys = [line for line in map(json.loads, history.read_text().splitlines()) if line["kind"] == "buy"]
    began = min(buy["sent_at"] for buy in buys)
    return [
        (round(buy["answered_at"] - began, 2), str(buy["code"])) for buy in buys if buy["status"] in (0, UNAVAILABLE)
    ][:SHOWN_MAX]


def _recovery(history: Path, scene: Scene) -> tuple[float | None, float | None]:
    """Return the time from the fault, and from its end, to the next 202 that a client got."""
    accepted_at = sorted(
        entry["answered_at"]
        for entry in map(json.loads, history.read_text().splitlines())
        if entry["kind"] == "buy" and entry["status"] == 202
    )
    after_fault = (at - scene.fault_at for at in accepted_at if scene.fault_at and at > scene.fault_at)
    after_repair = (at - scene.repaired_at for at in accepted_at if scene.repaired_at and at > scene.repaired_at)
    return next(after_fault, None), next(after_repair, None)


async def wait_for_postgres(stack: Stack) -> asyncpg.Connection[asyncpg.Record]:
    """Connect as soon as the server answers."""
    while True:
        try:
            return await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"], timeout=5)
        except DOWN:
            await asyncio.sleep(0.05)
