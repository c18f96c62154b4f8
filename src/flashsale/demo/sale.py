"""A sale on a running stack: a product, buyers, a load generator, and the outcome.

The demo shows a sale; the fault tests disturb one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from flashsale.bootstrap.commands import open_sale_figures
from flashsale.domain.orders import FINAL, OrderStatus
from flashsale.local.children import Child, ChildFailed
from flashsale.local.stack import ROOT, Stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from flashsale.bootstrap.commands import SaleFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """The parameters of a sale."""

    units: int
    buyers: int
    seconds: float
    """The time in which all buyers arrive."""
    price: str = "999.99"
    seed: int = 1
    players: int = 250
    """Number of Locust users that act for the buyers: enough that no buyer waits for one."""
    persistence: float = 0.05
    """Fraction of sold-out buyers who try again, so that units of declined orders are sold again."""
    persist_s: float = 9.0
    follow_s: float = 60.0
    """Longest time that a buyer waits for the end of an order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The state of the sale at one instant."""

    elapsed_s: float
    """Since the first buyer was to arrive; 0 before."""
    orders: Mapping[str, int]
    jobs: int
    free: int

    @property
    def open_orders(self) -> int:
        """Orders that are not final."""
        return sum(count for status, count in self.orders.items() if OrderStatus(status) not in FINAL)


class SaleRun:
    """A running sale: call `prepare`, `begin`, `watch`, `outcome` in this order. `open_sale` creates it."""

    def __init__(self, stack: Stack, sale: Sale, folder: Path, figures: SaleFigures) -> None:
        """Store history, summary and buyers in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.stack = stack
        self.sale = sale
        self.figures = figures
        self.pool = figures.pool
        self.history = folder / "history.jsonl"
        self.product_id = 0
        self.began_s = 0.0
        self.load: Child
        self._summary = folder / "summary.json"
        self._crowd = folder / "crowd-began"
        self._buyers = folder / "buyers.jsonl"

    async def prepare(self) -> None:
        """Create the product, and buyers, each with a token.

        Raises:
            ChildFailed: if the buyers cannot be created.
        """
        self.product_id = await create_product(
            self.stack, {"name": "Phone", "price": self.sale.price, "stock": self.sale.units}
        )
        child = self._command("buyers", "buyers", "--count", str(self.sale.buyers), "--out", str(self._buyers))
        if await child.wait():
            raise child.failure(f"ended with {child.returncode}")

    def begin(self) -> None:
        """Start the load generator."""
        sale = self.sale
        self._crowd.unlink(missing_ok=True)
        options = {
            "--host": self.stack.base_url,
            "-u": sale.players,
            "-r": sale.players,
            "--buyers-file": self._buyers,
            "--product": self.product_id,
            "--arrive-s": sale.seconds,
            "--persistence": sale.persistence,
            "--persist-s": sale.persist_s,
            "--follow-s": sale.follow_s,
            "--arrival-seed": sale.seed,
            # Faults may delay and decline payments; the audit decides whether the sale was right.
            "--min-success": 0,
            "--max-order-p95-s": 3600,
            "--history": self.history,
            "--summary": self._summary,
            "--began": self._crowd,
        }
        flat = ["--complete", *(str(part) for option in options.items() for part in option)]
        self.load = Child(
            "load generator",
            [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", "loadtest/stampede.py", *flat],
            log_path=self.stack.log_dir / "locust.log",
            environment={name: value for name, value in os.environ.items() if not name.startswith("PYTHONPATH")},
            cwd=ROOT,
        )
        self.began_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first buyer was to arrive. The load generator needs seconds to start: 0 until then."""
        with contextlib.suppress(OSError, ValueError):
            return max(0.0, time.time() - float(self._crowd.read_text()))
        return 0.0

    def satisfy(self) -> None:
        """Let no buyer try again after `sold out`."""
        self.load.send(signal.SIGUSR1)

    async def watch(self, show: Callable[[Seen], None], *, every_s: float, deadline_s: float) -> None:
        """Call `show` every `every_s` until the load generator has ended and the last order is final.

        Raises:
            ChildFailed: after `deadline_s`.
        """
        while True:
            seen = await self.look()
            if seen is not None:
                show(seen)
                if self.load.returncode is not None and not seen.open_orders:
                    return
            if time.monotonic() - self.began_s > deadline_s:
                raise self.load.failure(f"or orders have not ended after {deadline_s:g} s; last look: {seen}")
            await asyncio.sleep(every_s)

    async def look(self) -> Seen | None:
        """Read the state of the sale; None if the database is down."""
        seen = await self.figures.look(self.product_id)
        if seen is None:
            return None
        return Seen(elapsed_s=self.elapsed_s, orders=seen.orders, jobs=seen.jobs, free=seen.free)

    async def outcome(self) -> dict[str, Any]:
        """Return the outcome of the orders: `outcome_of_sale` in `sql/queries/audit.sql`."""
        return await self.figures.outcome(self.product_id)

    def summary(self) -> dict[str, float]:
        """Return the load generator's figures; empty if it failed."""
        figures: dict[str, float] = json.loads(self._summary.read_text()) if self._summary.exists() else {}
        return figures

    async def audit(self) -> tuple[int, str]:
        """Run `flashsale audit` with the clients' history; returns its exit code and output."""
        child = self._command("audit", "audit", "--history", str(self.history))
        return await child.wait(), child.log_path.read_text().strip()

    def _command(self, name: str, *arguments: str) -> Child:
        return Child(
            name,
            [sys.executable, "-m", "flashsale.cli", *arguments],
            log_path=self.stack.log_dir / f"{name}-{time.time_ns()}.log",
            environment=self.stack.environment,
            cwd=ROOT,
        )


@asynccontextmanager
async def open_sale(stack: Stack, sale: Sale, folder: Path) -> AsyncIterator[SaleRun]:
    """Open a sale on a running stack; stop the load generator at the end."""
    async with open_sale_figures(stack.environment["FLASHSALE_POSTGRES__URL"]) as figures:
        run = SaleRun(stack, sale, folder, figures)
        try:
            yield run
        finally:
            if run.began_s:
                await run.load.stop(timeout_s=5)


async def create_product(stack: Stack, product: dict[str, object]) -> int:
    """Create a product over the API, as the administrator; returns its id.

    Raises:
        ChildFailed: if the API refuses the product.
    """
    try:
        async with aiohttp.ClientSession(stack.base_url, raise_for_status=True) as session:
            credentials = {"email": stack.secrets["admin_email"], "password": stack.secrets["admin_password"]}
            async with session.post("/api/auth/login", json=credentials) as response:
                token = (await response.json())["token"]
            headers = {"Authorization": f"Bearer {token}"}
            async with session.post("/api/admin/products", json=product, headers=headers) as response:
                product_id: int = (await response.json())["id"]
    except aiohttp.ClientError as error:
        raise ChildFailed(f"The product could not be created: {error}. See {stack.log_dir}.") from error
    return product_id
