"""Where approaches run: the same servers, payment provider and number of processes for each, one after the other."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import asyncpg
import jwt
from baselines.shop import SCHEMA

from analysis.verdict import Sold
from flashsale.adapters.payments.simulator import SimulatorGateway
from flashsale.demo.sale import create_product
from flashsale.domain.money import Money
from flashsale.local.children import Child, run_to_end, start_ready
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.stack import ROOT, Stack
from flashsale.local.valkey_server import LocalValkey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.domain.payments import LedgerEntry

PRICE_MINOR, CURRENCY = 99_999, "USD"
PROVIDER = {"FLASHSALE_SIMULATOR__DECLINE_RATE": "0.1", "FLASHSALE_SIMULATOR__SEED": "1"}
"""How the payment provider behaves, the same for all: its defaults, but one payment of ten is declined."""
TOKEN_S = 3600

BASELINES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "naive": (5, {}),
    "synchronous": (5, {}),
    "row_lock": (5, {}),
    "mutex": (5, {}),
    "redis_queue": (2, {"orders": 1, "payments": 2}),
    "lua": (2, {"orders": 2, "expiry": 1}),
}
"""API processes, and worker processes by kind: five in all, as the product has."""

OURS = "flashsale"


class Running(ABC):
    """An approach that runs, with one product on sale."""

    product_id = 1
    base_url: str

    def __init__(self, folder: Path) -> None:
        """Keep everything below `folder`."""
        self.folder = folder
        self.opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start everything, and put the product on sale."""
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
    async def orders(self) -> list[Sold]:
        """Read the orders."""

    @abstractmethod
    async def offered(self) -> int:
        """Read the stock that buyers are shown."""

    @abstractmethod
    async def ledger(self) -> dict[str, list[LedgerEntry]]:
        """Read the payment provider's books, by order id."""

    @abstractmethod
    async def look(self) -> Mapping[str, int]:
        """Read stock, queue depths and orders by status, cheaply."""

    @abstractmethod
    def pids(self) -> Mapping[str, Sequence[int]]:
        """Return the processes by role; `postgres` and `redis` are the servers."""

    @abstractmethod
    async def kill_worker(self) -> None:
        """Kill one process that works on orders, and start it again."""

    @abstractmethod
    async def kill_redis(self) -> None:
        """Kill Redis with SIGKILL, and start it again."""


class Baseline(Running):
    """A baseline: its processes, a database of its own, and the servers."""

    def __init__(self, folder: Path, name: str, *, units: int) -> None:
        """Run the approach `name` with `units` units."""
        super().__init__(folder)
        self.name = name
        self.units = units
        self._children: dict[str, list[Child]] = defaultdict(list)
        self._secret, self._gateway_secret = secrets.token_urlsafe(48), secrets.token_urlsafe(24)

    async def start(self) -> None:
        """Start the servers, the provider, and the approach's processes."""
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._postgres = LocalPostgres(self.folder / "postgres", log_path=logs / "postgres.log")
        self._valkey = LocalValkey(self.folder / "valkey", log_path=logs / "valkey.log")
        for server in (self._postgres, self._valkey):
            self.opened.push_async_callback(server.stop)
            await server.start()
        admin = await asyncpg.connect(self._postgres.url)
        await admin.execute("CREATE DATABASE baseline")
        await admin.close()
        url = self._postgres.url.rpartition("/")[0] + "/baseline"
        self._pool = await asyncpg.create_pool(url, min_size=1, max_size=2)
        self.opened.push_async_callback(self._pool.close)
        await self._pool.execute(SCHEMA)
        gateway, gateway_url = self._listener()
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), str(ROOT / "loadtest")]),
            **PROVIDER,
            "FLASHSALE_PAYMENTS__GATEWAY_SECRET": self._gateway_secret,
            "FLASHSALE_SIMULATOR__LEDGER_PATH": str(self.folder / "ledger.jsonl"),
            "FLASHSALE_POSTGRES__URL": url,
            "FLASHSALE_REDIS__URL": self._valkey.url,
            "FLASHSALE_AUTH__JWT_SECRET": self._secret,
            "BASELINE_POSTGRES": url,
            "BASELINE_REDIS": self._valkey.url,
            "BASELINE_GATEWAY": gateway_url,
            "BASELINE_GATEWAY_SECRET": self._gateway_secret,
            "BASELINE_JWT_SECRET": self._secret,
        }
        await self._child("simulator", [sys.executable, "-m", "flashsale.cli", "simulator"], gateway)
        self._gateway = SimulatorGateway(gateway_url, self._gateway_secret, connections_max=1)
        await self.opened.enter_async_context(self._gateway)
        base = [sys.executable, "-m", "baselines"]
        await run_to_end(
            "create",
            [*base, "create", self.name, "--units", str(self.units)],
            log_path=logs / "create.log",
            environment=self._environment,
            cwd=ROOT,
        )
        api, workers = BASELINES[self.name]
        listener, self.base_url = self._listener()
        for _ in range(api):
            await self._child("api", [*base, "serve", self.name], listener)
        for kind, count in workers.items():
            for _ in range(count):
                await self._child(kind, [*base, "work", self.name, kind])

    def _listener(self) -> tuple[socket.socket, str]:
        sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.opened.callback(sock.close)
        return sock, f"http://127.0.0.1:{sock.getsockname()[1]}"

    async def _child(self, role: str, command: list[str], sock: socket.socket | None = None) -> None:
        fds = [] if sock is None else [sock.fileno()]
        child = await start_ready(
            f"{self.name} {role}",
            [*command, *(part for fd in fds for part in ("--fd", str(fd)))],
            log_path=self.folder / "logs" / f"{role}-{len(self._children[role])}.log",
            environment=self._environment,
            inherited_fds=fds,
            cwd=ROOT,
        )
        self._children[role].append(child)
        self.opened.push_async_callback(child.stop)

    async def buyers(self, count: int) -> list[dict[str, str]]:
        """Sign a token for each buyer; the baselines have no accounts."""
        until = time.time() + TOKEN_S
        ids = [str(uuid.uuid4()) for _ in range(count)]
        return [{"user_id": one, "token": jwt.encode({"sub": one, "exp": until}, self._secret)} for one in ids]

    async def orders(self) -> list[Sold]:
        """Read the orders."""
        rows = await self._pool.fetch(
            "SELECT order_id::text, user_id, status, quantity, extract(EPOCH FROM created_at)::float8 AS created_s, "
            "extract(EPOCH FROM released_at)::float8 AS released_s FROM orders"
        )
        return [Sold(**row) for row in rows]

    async def offered(self) -> int:
        """Read the counter that decides: in Redis where the approach counts there, else in the database."""
        from redis.asyncio import Redis

        client = Redis.from_url(self._valkey.url, decode_responses=True)
        counted = await client.get(f"stock:{self.product_id}")
        await client.aclose()
        if counted is not None:
            return max(0, int(counted))
        return int(await self._pool.fetchval("SELECT stock FROM products WHERE product_id = $1", self.product_id))

    async def ledger(self) -> dict[str, list[LedgerEntry]]:
        """Read the payment provider's books."""
        entries: dict[str, list[LedgerEntry]] = defaultdict(list)
        async for entry in self._gateway.ledger():
            entries[entry.key.removeprefix("order:")].append(entry)
        return dict(entries)

    async def look(self) -> Mapping[str, int]:
        """Read the orders by status."""
        rows = await self._pool.fetch("SELECT status, count(*) AS orders FROM orders GROUP BY status")
        return {row["status"]: row["orders"] for row in rows}

    def pids(self) -> Mapping[str, Sequence[int]]:
        """Return the processes by role."""
        roles = {role: [child.pid for child in children] for role, children in self._children.items()}
        for name, server in (("postgres", self._postgres), ("redis", self._valkey)):
            roles[name] = [server.child.pid] if server.child is not None else []
        return roles

    async def kill_worker(self) -> None:
        """Kill a worker, or an API process where these do all the work."""
        _, workers = BASELINES[self.name]
        role = next(iter(workers), "api")
        victim = self._children[role][0]
        victim.send(signal.SIGKILL)
        await victim.wait()

    async def kill_redis(self) -> None:
        """Kill Redis, and start it again: it keeps no files here, as in the product."""
        await self._valkey.kill()
        await self._valkey.start()


class Ours(Running):
    """The product, by its public surface."""

    def __init__(self, folder: Path, *, units: int) -> None:
        """Sell `units` units."""
        super().__init__(folder)
        self.units = units
        self._stack = Stack(folder, port=0, environment=PROVIDER)

    async def start(self) -> None:
        """Start the local stack."""
        await self.opened.enter_async_context(self._stack)
        self.base_url = self._stack.base_url
        product = {"name": "Phone", "price": str(Money(minor=PRICE_MINOR, currency=CURRENCY)), "stock": self.units}
        self.product_id = await create_product(self._stack, product)
        self._pool = await asyncpg.create_pool(
            self._stack.environment["FLASHSALE_POSTGRES__URL"], min_size=1, max_size=2
        )
        self.opened.push_async_callback(self._pool.close)
        secret = self._stack.environment["FLASHSALE_PAYMENTS__GATEWAY_SECRET"]
        self._gateway = SimulatorGateway(self._stack.gateway_url, secret, connections_max=1)
        await self.opened.enter_async_context(self._gateway)

    async def buyers(self, count: int) -> list[dict[str, str]]:
        """Make accounts with `flashsale buyers`."""
        import json

        out = self.folder / "buyers.jsonl"
        await run_to_end(
            "buyers",
            [sys.executable, "-m", "flashsale.cli", "buyers", "--count", str(count), "--out", str(out)],
            log_path=self._stack.log_dir / "buyers.log",
            environment=self._stack.environment,
            cwd=ROOT,
        )
        return [json.loads(line) for line in out.read_text().splitlines()]

    async def orders(self) -> list[Sold]:
        """Read the orders, with the time at which their units came back."""
        rows = await self._pool.fetch(
            "SELECT o.order_id::text, o.user_id::text, o.status::text, o.quantity, "
            "extract(EPOCH FROM o.created_at)::float8 AS created_s, "
            "(SELECT extract(EPOCH FROM min(e.at))::float8 FROM order_events AS e WHERE e.order_id = o.order_id "
            "AND e.status IN ('payment_failed', 'expired', 'cancelled', 'failed')) AS released_s "
            "FROM orders AS o WHERE o.product_id = $1",
            self.product_id,
        )
        return [Sold(**row) for row in rows]

    async def offered(self) -> int:
        """Read the live stock."""
        return int(await self._pool.fetchval("SELECT free FROM product_live WHERE product_id = $1", self.product_id))

    async def ledger(self) -> dict[str, list[LedgerEntry]]:
        """Read the payment provider's books; a key is `order id:attempt`."""
        entries: dict[str, list[LedgerEntry]] = defaultdict(list)
        attempts = await self._pool.fetch("SELECT gateway_key, order_id::text FROM payment_attempts")
        by_key = {row["gateway_key"]: row["order_id"] for row in attempts}
        async for entry in self._gateway.ledger():
            entries[by_key.get(entry.key, entry.key)].append(entry)
        return dict(entries)

    async def look(self) -> Mapping[str, int]:
        """Read the orders by status."""
        rows = await self._pool.fetch("SELECT status::text, count(*) AS orders FROM orders GROUP BY status")
        return {row["status"]: row["orders"] for row in rows}

    def pids(self) -> Mapping[str, Sequence[int]]:
        """Return the processes by role."""
        roles = {role: [child.pid for child in children] for role, children in self._stack.children.items()}
        for name, server in (("postgres", self._stack.postgres), ("redis", self._stack.valkey)):
            roles[name] = [server.child.pid] if server is not None and server.child is not None else []
        return roles

    async def kill_worker(self) -> None:
        """Kill the payment worker, and start it again."""
        await self._stack.kill("payments")
        await self._stack.start_child("payments", 0)

    async def kill_redis(self) -> None:
        """Kill Redis, and start it again."""
        assert self._stack.valkey is not None  # noqa: S101 - it is the stack's own
        await self._stack.valkey.kill()
        await self._stack.valkey.start()


def run_approach(name: str, folder: Path, *, units: int) -> Running:
    """Return an approach, to be entered."""
    return Ours(folder, units=units) if name == OURS else Baseline(folder, name, units=units)


async def until_at_rest(running: Running, *, longest_s: float) -> None:
    """Wait until no order changes any more, or for `longest_s`."""
    deadline = time.monotonic() + longest_s
    before: Mapping[str, int] = {}
    while time.monotonic() < deadline:
        now = await running.look()
        if now == before and not set(now) & {"accepted", "paying", "queued", "processing_payment", "payment_unknown"}:
            return
        before = now
        await asyncio.sleep(1.0)


async def until_orders(running: Running, count: int) -> None:
    """Wait until there are so many orders, or until a minute is over."""
    deadline = time.monotonic() + 60
    while sum((await running.look()).values()) < count and time.monotonic() < deadline:  # noqa: ASYNC110 - a database is asked
        await asyncio.sleep(0.02)
