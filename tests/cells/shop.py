"""Two whole stacks on this machine behind one nginx, and a crowd at each cell's product."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from flashsale.local.access import free_port
from flashsale.local.stack import ROOT, Stack
from tests.support.api import FAST, admin_headers, buyer_tokens
from tests.support.shipped_nginx import BINARIES, shipped_nginx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "only for tests of cells: 0123456789 abcdefghijk"
CELLS = 2
ROUTER = {
    "ACCOUNT_REQUESTS_PER_S": "1000",
    "ADDRESS_REQUESTS_PER_S": "100000",
    "ADDRESS_LOGINS_PER_S": "1000",
    "ADDRESS_CONNECTIONS": "10000",
}


class TwoCells:
    """A shop of two cells; each can be killed as a whole and started again."""

    def __init__(self, folder: Path) -> None:
        """Keep everything below a folder."""
        self.folder = folder
        self.ports = [free_port() for _ in range(CELLS)]
        self.stacks: list[Stack] = [self._stack(cell) for cell in range(CELLS)]
        self.router = ""

    def _stack(self, cell: int) -> Stack:
        environment = {
            **FAST,
            "FLASHSALE_AUTH__JWT_SECRET": SECRET,
            "FLASHSALE_CELL__NUMBER": str(cell),
            "FLASHSALE_CELL__COUNT": str(CELLS),
            "FLASHSALE_LOG__LEVEL": "info",
        }
        return Stack(self.folder / f"cell-{cell}", api=1, port=self.ports[cell], environment=environment)

    async def command(self, cell: int, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `flashsale` with the settings of a cell."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "flashsale.cli", *arguments],
            env={**self.stacks[cell].environment, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    async def join(self) -> None:
        """Let cell 1 copy the accounts of cell 0."""
        accounts_url = self.stacks[0].environment["FLASHSALE_POSTGRES__OWNER_URL"]
        done = await self.command(1, "cells", "join", FLASHSALE_CELL__ACCOUNTS_URL=accounts_url)
        assert done.returncode == 0, done.stderr

    async def kill(self, cell: int) -> None:
        """Kill every process of a cell at once: Postgres, Valkey, API, workers, the provider."""
        self.stacks[cell].abort()
        await self.stacks[cell].stop()

    async def start(self, cell: int) -> None:
        """Start a cell again, on the data that the kill left."""
        self.stacks[cell] = self._stack(cell)
        await self.stacks[cell].start()

    def files(self) -> list[str]:
        """Write the settings of each cell to a file, and return the files."""
        paths = []
        for cell, stack in enumerate(self.stacks):
            path = self.folder / f"cell-{cell}.env"
            if stack.environment_file.exists():
                path.write_text(stack.environment_file.read_text())
            paths.append(str(path))
        return paths

    async def check(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run `flashsale cells audit` or `status` over both."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "flashsale.cli", "cells", command, *self.files()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )


@asynccontextmanager
async def two_cells(folder: Path) -> AsyncIterator[TwoCells]:
    """Run the shop: both stacks, the accounts copied, and the shipped nginx before them."""
    async with AsyncExitStack() as opened:
        shop = TwoCells(folder)

        async def stop() -> None:
            for stack in shop.stacks:
                await stack.stop()

        opened.push_async_callback(stop)
        await asyncio.gather(*(stack.start() for stack in shop.stacks))
        await shop.join()
        place = f"127.0.0.1:{shop.ports[1]}"
        (folder / "nginx").mkdir()
        edge, _ = opened.enter_context(
            shipped_nginx(
                folder / "nginx",
                BINARIES.get("current") or next(iter(BINARIES.values())),
                upstream=shop.ports[0],
                CELLS=f"1={place},{place}",
                **ROUTER,
            )
        )
        shop.router = f"http://127.0.0.1:{edge.port}"
        yield shop


@dataclass(slots=True)
class Crowd:
    """What the buyers of one cell's product saw."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Definite refusals, by code."""
    undecided: int = 0
    """Buyers who got no definite answer."""
    errors: Counter[str] = field(default_factory=Counter)
    """Answers, or their absence, after which the buyer sent the same request again."""
    seconds: list[float] = field(default_factory=list)
    """Of the answers 202 and 409."""
    late_s: float = 0.0
    """By how much the buyers' process itself was late at most."""
    sold_some: asyncio.Event = field(default_factory=asyncio.Event)
    rest_may_come: asyncio.Event = field(default_factory=asyncio.Event)
    """Until then three quarters of the buyers wait, if they are `held`."""

    def at(self, share: float) -> float:
        """Return the milliseconds within which a share of the definite answers came."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else float("nan")


async def sell(
    shop: TwoCells, product: int, tokens: list[str], *, over_s: float, some: int, crowd: Crowd, held: bool = False
) -> None:
    """Let each buyer buy one unit with one key, the arrivals spread over a time; `some` orders set the event.

    The buyers are a process of their own: this one starts and stops cells, and would answer late.
    """
    asked = {"url": shop.router, "product": product, "tokens": tokens, "over_s": over_s, "held": held}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.cells.crowd"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    if process.stdin is None or process.stdout is None:
        raise AssertionError
    process.stdin.write(json.dumps(asked).encode() + b"\n")

    async def let_come(there: asyncio.StreamWriter) -> None:
        await crowd.rest_may_come.wait()
        there.write(b"\n")

    letting = asyncio.create_task(let_come(process.stdin))
    try:
        while (line := await process.stdout.readline()) == b"accepted\n":
            crowd.accepted += 1
            if crowd.accepted >= some:
                crowd.sold_some.set()
    finally:
        letting.cancel()
        if process.returncode is None and not line.startswith(b"{"):
            process.kill()
        await process.wait()
    seen = json.loads(line)
    crowd.refused.update(seen["refused"])
    crowd.errors.update(seen["errors"])
    crowd.undecided, crowd.seconds, crowd.late_s = seen["undecided"], seen["seconds"], seen["late_s"]


async def create(shop: TwoCells, cell: int, units: int) -> int:
    """Create a product in a cell through the router, as an administrator of cell 0; returns its id."""
    headers = await asyncio.to_thread(admin_headers, shop.stacks[0])
    body = {"name": f"Of cell {cell}", "price": "9.99", "currency": "USD", "stock": units}
    async with httpx.AsyncClient(base_url=shop.router, timeout=60) as client:
        for _ in range(600):
            answer = await client.post(f"/cells/{cell}/api/admin/products", json=body, headers=headers)
            if answer.status_code != 503:
                break
            await asyncio.sleep(0.1)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])


async def tokens_of(shop: TwoCells, count: int) -> list[str]:
    """Make buyers in cell 0, and wait until their accounts are in cell 1."""
    import asyncpg

    tokens = await asyncio.to_thread(buyer_tokens, shop.stacks[0], count, prefix=uuid.uuid4().hex)
    urls = [stack.environment["FLASHSALE_POSTGRES__OWNER_URL"] for stack in shop.stacks]
    there, here = [await asyncpg.connect(url) for url in urls]
    try:
        wanted = await there.fetchval("SELECT count(*) FROM users")
        async with asyncio.timeout(60):
            while await here.fetchval("SELECT count(*) FROM users") < wanted:
                await asyncio.sleep(0.05)
    finally:
        await there.close()
        await here.close()
    return tokens


async def settled(shop: TwoCells) -> None:
    """Wait until no order of any cell waits for anything."""
    import asyncpg

    for stack in shop.stacks:
        connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__OWNER_URL"])
        try:
            async with asyncio.timeout(120):
                while await connection.fetchval("SELECT count(*) FROM orders WHERE due_at IS NOT NULL"):
                    await asyncio.sleep(0.1)
        finally:
            await connection.close()
