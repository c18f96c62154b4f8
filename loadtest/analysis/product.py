"""Runs the product: its local stack, bought from over its public HTTP surface."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import asyncpg

from analysis.stage import CURRENCY, PRICE_MINOR, PROVIDER, Look, Running
from analysis.verdict import Sold
from flashsale.adapters.payments.simulator import SimulatorGateway
from flashsale.demo.sale import create_product
from flashsale.domain.money import Money
from flashsale.local.children import Child, run_to_end
from flashsale.local.stack import ROOT, Stack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

OURS = "flashsale"

WAITING = ("queued", "processing", "awaiting_payment")
"""States of orders that wait for a worker."""


class Ours(Running):
    """The product."""

    still_s = 25.0
    """More than a worker's `stalled_s` and an order's `payment_due_s`, and than the second pause of the breaker."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        """Run the local stack with its default number of processes."""
        super().__init__(folder, port=port)
        self._stack = Stack(folder, port=port, environment=PROVIDER)

    async def start(self) -> None:
        """Start the local stack."""
        await self.opened.enter_async_context(self._stack)
        assert self._stack.postgres is not None  # noqa: S101 - the stack has its own servers here
        assert self._stack.valkey is not None  # noqa: S101
        self.postgres, self.valkey = self._stack.postgres, self._stack.valkey
        self.base_url = self._stack.base_url
        url = self._stack.environment["FLASHSALE_POSTGRES__URL"]
        self.pool = await asyncpg.create_pool(url, min_size=1, max_size=2)
        self.opened.push_async_callback(self.pool.close)
        secret = self._stack.environment["FLASHSALE_PAYMENTS__GATEWAY_SECRET"]
        self.gateway = SimulatorGateway(self._stack.gateway_url, secret, connections_max=1)
        await self.opened.enter_async_context(self.gateway)

    async def buyers(self, count: int) -> list[dict[str, str]]:
        """Make accounts with `flashsale buyers`."""
        out = self.folder / "buyers.jsonl"
        await run_to_end(
            "buyers",
            [sys.executable, "-m", "flashsale.cli", "buyers", "--count", str(count), "--out", str(out)],
            log_path=self._stack.log_dir / "buyers.log",
            environment=self._stack.environment,
            cwd=ROOT,
        )
        return [json.loads(line) for line in out.read_text().splitlines()]

    async def create_product(self, units: int, limit: int | None) -> int:
        """Create a product over the API."""
        return await create_product(
            self._stack,
            {
                "name": "Phone",
                "price": str(Money(minor=PRICE_MINOR, currency=CURRENCY)),
                "stock": units,
                "limitPerBuyer": limit,
            },
        )

    async def orders(self) -> list[Sold]:
        """Read the orders, with the time at which they became final."""
        rows = await self.pool.fetch(
            "SELECT o.order_id::text, o.user_id::text, o.status::text, o.quantity, "
            "extract(EPOCH FROM o.created_at)::float8 AS created_s, "
            "(SELECT extract(EPOCH FROM min(e.at))::float8 FROM order_events AS e WHERE e.order_id = o.order_id "
            "AND e.status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'failed')) AS ended_s "
            "FROM orders AS o WHERE o.product_id = $1",
            self.product_id,
        )
        return [Sold(**row) for row in rows]

    async def look(self) -> Look:
        """Read the live stock and the orders by state."""
        rows = await self.pool.fetch(
            "SELECT status::text, count(*) AS orders FROM orders WHERE product_id = $1 GROUP BY status", self.product_id
        )
        orders = {row["status"]: row["orders"] for row in rows}
        stock = await self.pool.fetchval("SELECT free FROM product_live WHERE product_id = $1", self.product_id)
        return Look(stock=int(stock), queued=sum(orders.get(status, 0) for status in WAITING), orders=orders)

    async def order_keys(self) -> Mapping[str, str]:
        """Return the order of each attempt's key."""
        rows = await self.pool.fetch("SELECT gateway_key, order_id::text FROM payment_attempts")
        return {row["gateway_key"]: row["order_id"] for row in rows}

    def children(self) -> Mapping[str, Sequence[Child]]:
        """Return the processes by role."""
        return self._stack.children

    async def kill_worker(self) -> None:
        """Kill the payment worker, and start it again."""
        await self._stack.kill("payments")
        await self._stack.start_child("payments", 0)
