"""Where approaches run: the same servers, payment provider and number of processes for each."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.domain.orders import FINAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from analysis.verdict import Sold
    from flashsale.adapters.payments.simulator import SimulatorGateway
    from flashsale.domain.payments import LedgerEntry
    from flashsale.local.children import Child
    from flashsale.local.postgres_server import LocalPostgres
    from flashsale.local.valkey_server import LocalValkey

PRICE_MINOR, CURRENCY = 99_999, "USD"
PROVIDER = {
    "FLASHSALE_SIMULATOR__DECLINE_RATE": "0.1",
    "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.5",
    "FLASHSALE_SIMULATOR__SEED": "1",
}
"""How the payment provider behaves, the same for all: half a second for a payment, and one of ten is declined."""

POSTGRES_FIGURES = (
    "SELECT xact_commit AS commits, xact_rollback AS rollbacks, "
    "tup_inserted + tup_updated + tup_deleted AS rows_written, "
    "(SELECT wal_bytes::bigint FROM pg_stat_wal) AS wal_bytes, numbackends AS connections "
    "FROM pg_stat_database WHERE datname = current_database()"
)


LOOK_S = 0.4
"""Pause between two looks at an approach that is to come to rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an approach looks like from outside at one moment."""

    stock: int
    queued: int
    """Orders or messages that wait for work."""
    orders: Mapping[str, int]
    """Orders by state."""


class Running(ABC):
    """An approach that runs; `put_on_sale` says what it sells, one product after the other."""

    postgres: LocalPostgres
    valkey: LocalValkey
    pool: asyncpg.Pool[asyncpg.Record]
    gateway: SimulatorGateway
    base_url: str
    still_s: float
    """Longer than any wait of the approach in which it writes nothing: what has not changed for so long is stuck."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        """Keep everything below `folder`; serve on `port`, 0 for a free one."""
        self.folder = folder
        self.port = port
        self.product_id = 0
        self.opened = AsyncExitStack()
        self._booked: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            ChildFailed: if a process does not start; nothing is left running then.
        """
        try:
            await self.start()
        except BaseException:
            await self.opened.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop everything."""
        await self.opened.aclose()

    @abstractmethod
    async def start(self) -> None:
        """Start everything; `opened` stops it."""

    @abstractmethod
    async def buyers(self, count: int) -> list[dict[str, str]]:
        """Return buyers with a token each."""

    @abstractmethod
    async def create_product(self, units: int, limit: int | None) -> int:
        """Put a product on sale; `limit` is for each buyer, where the approach has limits. Returns its id."""

    @abstractmethod
    async def orders(self) -> list[Sold]:
        """Read the orders of the product."""

    @abstractmethod
    async def look(self) -> Look:
        """Read stock, queue depth and orders by state, cheaply."""

    @abstractmethod
    async def order_keys(self) -> Mapping[str, str]:
        """Return the order of each key at the payment provider that is not the order's id itself."""

    @abstractmethod
    def children(self) -> Mapping[str, Sequence[Child]]:
        """Return the processes by role, the servers not among them."""

    @abstractmethod
    async def kill_worker(self) -> None:
        """Kill one process that works on orders, and start it again, as a service manager does."""

    async def put_on_sale(self, units: int, *, limit: int | None = None) -> None:
        """Sell `units` units of a new product from now on."""
        self._booked = frozenset([entry.key async for entry in self.gateway.ledger()])
        self.product_id = await self.create_product(units, limit)

    async def ledger(self) -> dict[str, list[LedgerEntry]]:
        """Read the payment provider's books of this product, by order id."""
        orders = await self.order_keys()
        # Requests whose buyer has left may end during the next run.
        rows = await self.pool.fetch("SELECT order_id::text FROM orders WHERE product_id <> $1", self.product_id)
        others = {row["order_id"] for row in rows}
        entries: dict[str, list[LedgerEntry]] = defaultdict(list)
        async for entry in self.gateway.ledger():
            order_id = orders.get(entry.key, entry.key)
            if entry.key not in self._booked and order_id not in others:
                entries[order_id].append(entry)
        return dict(entries)

    async def figures(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return what Postgres and Redis have counted since they started."""
        row = await self.pool.fetchrow(POSTGRES_FIGURES)
        client = Redis.from_url(self.valkey.url, decode_responses=True)
        counted: dict[str, int] = {}
        with contextlib.suppress(RedisError, OSError):
            info = await client.info()
            names = {
                "commands": "total_commands_processed",
                "memory_bytes": "used_memory_peak",
                "connections": "connected_clients",
            }
            counted = {name: int(info[field]) for name, field in names.items()}
        await client.aclose()
        return dict(row or {}), counted

    def roots(self) -> dict[str, list[int]]:
        """Return the processes that run, by role; their descendants belong to them."""
        roles = {role: [child.pid for child in children] for role, children in self.children().items()}
        for name, server in (("postgres", self.postgres), ("redis", self.valkey)):
            roles[name] = [server.child.pid] if server.child is not None else []
        return roles

    async def disturb(self, disturbance: str, *, silent_s: float) -> None:
        """Kill a worker or Redis, and start it again; or stop the payment provider for `silent_s`."""
        if disturbance == "worker":
            await self.kill_worker()
        elif disturbance == "redis":
            # It keeps no files here, as in the product.
            await self.valkey.kill()
            await self.valkey.start()
        elif disturbance == "gateway":
            (provider,) = self.children()["simulator"]
            provider.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(silent_s)
            finally:
                provider.send(signal.SIGCONT)


def unsettled(orders: Mapping[str, int]) -> int:
    """Return how many orders are not final."""
    return sum(count for status, count in orders.items() if status not in FINAL)


async def until_at_rest(running: Running, *, longest_s: float) -> Literal["at rest", "stuck", "busy"]:
    """Wait until every order is final and nothing waits; returns how the approach is after at most `longest_s`.

    It is stuck if something is left to do and nothing has changed for `still_s`.
    """
    deadline = time.monotonic() + longest_s
    changed_s, before = time.monotonic(), None
    now = None
    while (now_s := time.monotonic()) < deadline:
        # Redis may just have been killed.
        with contextlib.suppress(RedisError):
            now = await running.look()
        if now is None or now != before:
            changed_s, before = now_s, now
        elif not (unsettled(now.orders) or now.queued):
            return "at rest"
        elif now_s > changed_s + running.still_s:
            return "stuck"
        await asyncio.sleep(LOOK_S)
    return "busy"


async def until_orders(running: Running, count: int, *, longest_s: float, begin_s: float = 30.0) -> None:
    """Wait until there are so many orders, or `longest_s` after the first one; if none comes, for `begin_s`."""
    deadline = time.monotonic() + begin_s
    before = 0
    while before < count and time.monotonic() < deadline:
        now = sum((await running.look()).orders.values())
        if now and not before:
            deadline = time.monotonic() + longest_s
        before = now
        await asyncio.sleep(0.02)
