"""Overload: buys beyond capacity, and a flood of logins during a sale."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TextIO

import aiohttp
import asyncpg
import jwt
from redis.asyncio import Redis
from rich.table import Table

from flashsale.demo.sale import Sale, create_product, open_sale
from flashsale.local.children import pss_bytes
from flashsale.local.stack import Stack
from tests.support.api import audit, buyer_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MIB = 2**20

CALM_CLIENTS, CROWD = 64, 1000
OVERLOAD_S = 20.0
SMALL_QUEUES = {
    "FLASHSALE_GATE__QUEUE_MAX": "200",
    "FLASHSALE_ACCEPT__QUEUE_MAX": "100",
    "FLASHSALE_ORDERS__WAITING_MAX": "3000",
    "FLASHSALE_GATE__RATE_LIMIT": "0",
    "FLASHSALE_LOG__LEVEL": "error",
}
"""Queues that a crowd on one machine can fill."""

RECOVERY_S = 5.0

FLOOD_PER_S = 200
"""Logins and registrations a second: about twice what two cores hash if they do nothing else (21 ms each)."""
PAIRS = 5

REBUILD_S = {1_000: 2.0, 100_000: 5.0}
"""Aims, by units."""
REBUILDS = 5


STAMPEDE_UNITS, STAMPEDE_BUYERS, STAMPEDE_S, LATECOMERS = 10_000, 12_000, 1.0, 200
STAMPEDES: dict[str, dict[str, str]] = {
    "defaults": {},
    "small queues": {"FLASHSALE_GATE__QUEUE_MAX": "200", "FLASHSALE_ACCEPT__QUEUE_MAX": "100"},
}
"""One API process each: the queues of defaults hold less than what comes in a second, too."""

ROUNDS_MAX = 60
"""Most times that those who were told to come back press again, a second apart."""


@dataclass(slots=True)
class Press:
    """What a crowd was answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lasted_s: float = 0.0

    def p99_ms(self) -> float:
        """Return the time within which all but one in a hundred were answered."""
        return sorted(self.seconds)[int(0.99 * (len(self.seconds) - 1))] * 1000

    def row(self, name: str) -> list[str]:
        """Return a table row: who, requests a second, answers, p50, p99."""
        ordered = sorted(self.seconds)
        accepted, gone, busy = (self.statuses[status] for status in (202, 409, 503))
        other = sum(self.statuses.values()) - accepted - gone - busy
        return [
            name,
            f"{len(ordered) / self.lasted_s:,.0f}",
            *(f"{count:,}" for count in (accepted, gone, busy, other)),
            *(f"{ordered[int(share * (len(ordered) - 1))] * 1000:,.0f}" for share in (0.5, 0.99)),
        ]


async def overload(folder: Path, say: Callable[[str | Table], None]) -> bool:
    """Let far more clients press than can be served; true if only 503 says so, memory is bounded and it recovers."""
    async with Stack(folder, port=0, environment=SMALL_QUEUES) as stack:
        product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": 200_000})
        tokens = buyer_tokens(stack, 20_000)
        calm = await press(stack, product_id, tokens, clients=CALM_CLIENTS, seconds=5)
        before = _api_memory(stack)
        peak = before

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, _api_memory(stack))
                await asyncio.sleep(0.5)

        async with _beside(watch()):
            crowd = await press(stack, product_id, tokens, clients=CROWD, seconds=OVERLOAD_S)
        ended_s = time.monotonic()
        while not (await press(stack, product_id, tokens, clients=1, seconds=0.0)).statuses[202]:
            if time.monotonic() - ended_s > RECOVERY_S:
                break
        recovered_s = time.monotonic() - ended_s
        verdict = await asyncio.to_thread(audit, stack)
    table = Table(title="overload: accepts, two API processes, small queues", title_justify="left")
    for column in ("clients at once", "requests/s", "202", "409", "503", "other", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    table.add_row(*calm.row(str(CALM_CLIENTS)))
    table.add_row(*crowd.row(f"{CROWD:,}"))
    say(table)
    say(f"memory of both API processes: {before / MIB:.0f} MiB before, {peak / MIB:.0f} MiB at most")
    say(f"next 202 after the crowd left: {recovered_s:.2f} s; {verdict.stdout.strip().splitlines()[-1]}")
    only_503 = all(status in {202, 409, 503} for status in crowd.statuses)
    return (
        only_503
        and crowd.statuses[503] > 0
        and peak < 2 * before + 64 * MIB
        and recovered_s < 5
        and not verdict.returncode
    )


async def flood(folder: Path, say: Callable[[str | Table], None]) -> bool:
    """Hold the same sale without and with a flood of logins; true if buys are at most twice as slow at p99."""
    sale = Sale(units=1000, buyers=3000, seconds=8, persistence=0.0, persist_s=0.0)
    p99_ms: dict[bool, list[float]] = {False: [], True: []}
    flooded: Counter[int] = Counter()
    right = True
    environment = {"FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.2", "FLASHSALE_LOG__LEVEL": "error"}
    async with Stack(folder, port=0, environment=environment) as stack:
        for number, with_flood in itertools.product(range(PAIRS), (False, True)):
            async with open_sale(stack, sale, folder / f"{number}-{with_flood}") as run:
                await run.prepare()
                async with _beside(_flood(stack, flooded) if with_flood else asyncio.Event().wait()):
                    run.begin()
                    while run.load.returncode is None:
                        seen = await run.look()
                        if seen is not None and not seen.free and not seen.open_orders:
                            break
                        await asyncio.sleep(0.25)
                    await run.load.wait()
                await run.watch(lambda _: None, every_s=0.25, deadline_s=60)
                code, findings = await run.audit()
                if code:
                    say(findings)
                    right = False
                p99_ms[with_flood].append(run.summary()["buy_from_sent_ms_p99"])
    ratio = statistics.median(p99_ms[True]) / statistics.median(p99_ms[False])
    table = Table(
        "sale", "buy p99 ms, each run", "median", title="a flood of logins during a sale", title_justify="left"
    )
    for with_flood, name in ((False, "alone"), (True, f"with {FLOOD_PER_S} logins and registrations/s")):
        runs = p99_ms[with_flood]
        table.add_row(name, ", ".join(f"{one:.0f}" for one in runs), f"{statistics.median(runs):.0f}")
    say(table)
    say(f"ratio {ratio:.2f}; the flood was answered {dict(sorted(flooded.items()))}")
    return right and ratio <= 2 and set(flooded) <= {0, 201, 401, 429, 503}


async def rebuild(folder: Path, say: Callable[[str | Table], None]) -> bool:
    """Flush the gate and time until it is loaded again; true if that is quick also for many units."""
    table = Table("units", "s, each run", "median", "aim", title="gate rebuilt after FLUSHALL", title_justify="left")
    quick = True
    async with Stack(folder, port=0, environment={"FLASHSALE_LOG__LEVEL": "error"}) as stack:
        token = buyer_tokens(stack, 1)[0]
        async with Redis.from_url(stack.environment["FLASHSALE_REDIS__URL"], decode_responses=True) as redis:
            for units, aim_s in REBUILD_S.items():
                product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": units})
                took_s = []
                for _ in range(REBUILDS):
                    await redis.flushall()
                    began_s = time.monotonic()
                    # A buyer finds out; who loads the gate does not matter.
                    await press(stack, product_id, [token], clients=1, seconds=0.0)
                    while await redis.get(f"flashsale:{{{product_id}}}:stock") is None:
                        await asyncio.sleep(0.005)
                    took_s.append(time.monotonic() - began_s)
                median_s = statistics.median(took_s)
                quick = quick and median_s < aim_s
                table.add_row(
                    f"{units:,}", ", ".join(f"{one:.2f}" for one in took_s), f"{median_s:.2f}", f"< {aim_s:g}"
                )
        verdict = await asyncio.to_thread(audit, stack)
    say(table)
    say(verdict.stdout.strip().splitlines()[-1])
    return quick and not verdict.returncode


async def stampede(folder: Path, say: Callable[[str | Table], None]) -> bool:
    """Overfill every queue of one API process; true if every "sold out" was true, whatever else was under way."""
    table = Table(title="stampede: 10,000 units, 12,000 buyers in a second, one API process", title_justify="left")
    for column in ("queues", "press", "202", "503", "sold out", "units free then"):
        table.add_column(column, justify="right")
    right = True
    for name, settings in STAMPEDES.items():
        environment = {"FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.2", "FLASHSALE_LOG__LEVEL": "error", **settings}
        async with Stack(folder / name.replace(" ", "-"), port=0, api=1, environment=environment) as stack:
            product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": STAMPEDE_UNITS})
            tokens = buyer_tokens(stack, STAMPEDE_BUYERS + LATECOMERS)
            history = (folder / name).with_suffix(".jsonl")
            connector = aiohttp.TCPConnector(limit=2000)
            with history.open("w") as lines:
                async with aiohttp.ClientSession(stack.base_url, connector=connector) as session:
                    press = partial(_press_once, session, product_id, lines)
                    shares = [("first", tokens[:STAMPEDE_BUYERS], STAMPEDE_S), ("next", tokens[STAMPEDE_BUYERS:], 0.0)]
                    again: list[str] = []
                    for who, those, seconds in shares:
                        told = await press(those, seconds)
                        again += [token for token in those if told[token] == "unavailable"]
                        free = await _free(stack, product_id)
                        table.add_row(name, who, *_told(told), f"{free:,}")
                    for _ in range(ROUNDS_MAX):
                        if not again:
                            break
                        await asyncio.sleep(1)
                        told = await press(again, STAMPEDE_S)
                        again = [token for token in again if told[token] == "unavailable"]
                    table.add_row(name, "again", *_told(told), f"{await _free(stack, product_id):,}")
            verdict = await asyncio.to_thread(audit, stack, "--history", str(history))
            say(verdict.stdout.strip())
            right = right and not verdict.returncode and not again
    say(table)
    return right


def _told(told: dict[str, str]) -> list[str]:
    counts = Counter(told.values())
    return [f"{counts[what]:,}" for what in ("accepted", "unavailable", "sold_out")]


async def _free(stack: Stack, product_id: int) -> int:
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        free: int = await connection.fetchval("SELECT free FROM product_live WHERE product_id = $1", product_id)
    finally:
        await connection.close()
    return free


async def _press_once(
    session: aiohttp.ClientSession, product_id: int, lines: TextIO, tokens: list[str], seconds: float
) -> dict[str, str]:
    """Let each buyer press once within `seconds`, writing the history; returns what each was told."""
    told: dict[str, str] = {}
    began_s = time.monotonic()

    async def one(number: int, token: str) -> None:
        await asyncio.sleep(max(0.0, began_s + seconds * number / len(tokens) - time.monotonic()))
        sent_at = time.time()
        headers = {"Authorization": f"Bearer {token}"}
        async with session.post("/api/order/buy-flash", json={"productId": product_id}, headers=headers) as response:
            body = await response.read()
            answer = json.loads(body)
            told[token] = answer.get("code", "accepted")
            line = {
                "kind": "buy", "user": jwt.decode(token, options={"verify_signature": False})["sub"], "key": None,
                "product": product_id, "quantity": 1, "sent_at": sent_at, "answered_at": time.time(),
                "status": response.status, "order_id": answer.get("orderId"), "code": answer.get("code"),
                "body": hashlib.sha256(body).hexdigest() if response.status == HTTPStatus.ACCEPTED else None,
            }  # fmt: skip
            lines.write(json.dumps(line) + "\n")

    await asyncio.gather(*(one(number, token) for number, token in enumerate(tokens)))
    return told


async def _flood(stack: Stack, statuses: Counter[int]) -> None:
    """Register and log in, FLOOD_PER_S times a second, whatever the answers; for ever."""
    async with aiohttp.ClientSession(stack.base_url, connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks: set[asyncio.Task[None]] = set()

        async def one(number: int) -> None:
            email = f"flood-{time.time_ns()}-{number}@example.com"
            body = {"email": email, "password": "correct horse"}
            path = "/api/auth/login" if number % 2 else "/api/auth/register"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.post(path, json=body if number % 2 else {**body, "name": "Flood"}) as response:
                    statuses[response.status] += 1

        began_s = time.monotonic()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began_s + number / FLOOD_PER_S - time.monotonic()))
            task = asyncio.create_task(one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


@contextlib.asynccontextmanager
async def _beside(work: Awaitable[object]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def press(stack: Stack, product_id: int, tokens: list[str], *, clients: int, seconds: float) -> Press:
    """Let `clients` press one after the other for `seconds`, each without a pause, at least once."""
    press = Press()
    body = json.dumps({"productId": product_id}).encode()
    turn = itertools.cycle(tokens)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(stack.base_url, connector=connector) as session:
        began_s = time.monotonic()

        async def client() -> None:
            while True:
                headers = {"Authorization": f"Bearer {next(turn)}", "Content-Type": "application/json"}
                sent_s = time.monotonic()
                async with session.post("/api/order/buy-flash", data=body, headers=headers) as response:
                    await response.read()
                    press.statuses[response.status] += 1
                press.seconds.append(time.monotonic() - sent_s)
                if time.monotonic() - began_s >= seconds:
                    return

        await asyncio.gather(*(client() for _ in range(clients)))
        press.lasted_s = time.monotonic() - began_s
    return press


def _api_memory(stack: Stack) -> int:
    return sum(pss_bytes(child.pid) for child in stack.children["api"])
