"""Runs a baseline: its processes, a database of its own, and the servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import time
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING

import asyncpg
import jwt
from baselines.__main__ import SHOPS
from baselines.shop import SCHEMA, Servers

from analysis.stage import CURRENCY, PRICE_MINOR, PROVIDER, Look, Running
from analysis.verdict import Sold
from flashsale.adapters.payments.simulator import SimulatorGateway
from flashsale.local.children import Child, ChildFailed, all_of, start_ready
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.stack import ROOT
from flashsale.local.valkey_server import LocalValkey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from baselines.shop import Shop

BASELINES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "naive": (5, {}),
    "synchronous": (5, {}),
    "row_lock": (5, {}),
    "mutex": (5, {}),
    "redis_queue": (2, {"orders": 1, "payments": 2}),
    "lua": (2, {"orders": 2, "expiry": 1}),
}
"""API processes, and worker processes by kind: five in all, as the product has."""

WORKING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND state <> 'idle'"
)
"""Open transactions: buyers who wait for a lock, or hold one, have no order yet that anybody can see."""

TOKEN_S = 3600
RESTART_S = 0.5
"""After so long a process that ended is started again."""


class Baseline(Running):
    """A baseline, with a service manager that starts again what ends."""

    def __init__(self, folder: Path, name: str, *, port: int = 0) -> None:
        """Run the approach `name`."""
        super().__init__(folder, port=port)
        self.name = name
        self.still_s = SHOPS[name].waits_s + 1.0
        self._children: dict[str, list[Child]] = defaultdict(list)
        self._secret, self._gateway_secret = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        self._environment: dict[str, str] = {}
        self._shop: Shop

    async def start(self) -> None:
        """Start the servers, the provider, and the approach's processes."""
        logs, metrics = self.folder / "logs", self.folder / "metrics"
        for folder in (logs, metrics):
            folder.mkdir(parents=True, exist_ok=True)
        listener, self.base_url = self._listener(self.port)
        provider, gateway_url = self._listener(0)
        self.postgres = LocalPostgres(self.folder / "postgres", log_path=logs / "postgres.log")
        self.valkey = LocalValkey(self.folder / "valkey", log_path=logs / "valkey.log")
        for server in (self.postgres, self.valkey):
            self.opened.push_async_callback(server.stop)
        await all_of(self.postgres.start(), self.valkey.start())
        url = await self._database()
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), str(ROOT / "loadtest")]),
            **PROVIDER,
            "FLASHSALE_PAYMENTS__GATEWAY_SECRET": self._gateway_secret,
            "FLASHSALE_SIMULATOR__LEDGER_PATH": str(self.folder / "ledger.jsonl"),
            "FLASHSALE_POSTGRES__URL": url,
            "FLASHSALE_REDIS__URL": self.valkey.url,
            "FLASHSALE_AUTH__JWT_SECRET": self._secret,
            "BASELINE_POSTGRES": url,
            "BASELINE_REDIS": self.valkey.url,
            "BASELINE_GATEWAY": gateway_url,
            "BASELINE_GATEWAY_SECRET": self._gateway_secret,
            "BASELINE_JWT_SECRET": self._secret,
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        }
        servers = Servers(
            postgres=url,
            redis=self.valkey.url,
            gateway=gateway_url,
            gateway_secret=self._gateway_secret,
            jwt_secret=self._secret,
        )
        self.gateway = SimulatorGateway(gateway_url, self._gateway_secret, connections_max=1)
        await self.opened.enter_async_context(self.gateway)
        self._shop = SHOPS[self.name](servers)
        await self._shop.open()
        self.opened.push_async_callback(self._shop.close)
        self.pool = self._shop.pool
        self.opened.push_async_callback(self._stop)
        base = [sys.executable, "-m", "baselines"]
        api, workers = BASELINES[self.name]
        await all_of(
            self._run("simulator", [sys.executable, "-m", "flashsale.cli", "simulator"], provider),
            *(self._run("api", [*base, "serve", self.name], listener) for _ in range(api)),
            *(
                self._run(kind, [*base, "work", self.name, kind])
                for kind, count in workers.items()
                for _ in range(count)
            ),
        )

    async def _database(self) -> str:
        admin = await asyncpg.connect(self.postgres.url)
        await admin.execute("CREATE DATABASE baseline")
        await admin.close()
        url = self.postgres.url.rpartition("/")[0] + "/baseline"
        connection = await asyncpg.connect(url)
        await connection.execute(SCHEMA)
        await connection.close()
        return url

    def _listener(self, port: int) -> tuple[socket.socket, str]:
        try:
            sock = socket.create_server(("127.0.0.1", port), backlog=4096)
        except OSError as error:
            raise ChildFailed(f"Port {port} is in use: name another one with --port, or 0 for any.") from error
        self.opened.callback(sock.close)
        return sock, f"http://127.0.0.1:{sock.getsockname()[1]}"

    async def _run(self, role: str, command: list[str], sock: socket.socket | None = None) -> None:
        """Start a process, and see to it that it is started again when it ends."""
        child = await self._start(role, command, sock)
        watching = asyncio.create_task(self._keep(child, role, command, sock))

        async def forget() -> None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

        self.opened.push_async_callback(forget)

    async def _keep(self, child: Child, role: str, command: list[str], sock: socket.socket | None) -> None:
        while True:
            await child.wait()
            self._children[role].remove(child)
            await asyncio.sleep(RESTART_S)
            with contextlib.suppress(ChildFailed):
                child = await self._start(role, command, sock)

    async def _start(self, role: str, command: list[str], sock: socket.socket | None) -> Child:
        fds = [] if sock is None else [sock.fileno()]
        child = await start_ready(
            f"{self.name} {role}",
            [*command, *(part for fd in fds for part in ("--fd", str(fd)))],
            log_path=self.folder / "logs" / f"{role}.log",
            environment=self._environment,
            inherited_fds=fds,
            cwd=ROOT,
        )
        self._children[role].append(child)
        return child

    async def _stop(self) -> None:
        await asyncio.gather(*(child.stop(timeout_s=8) for children in self._children.values() for child in children))

    async def buyers(self, count: int) -> list[dict[str, str]]:
        """Sign a token for each buyer; the baselines have no accounts."""
        until = time.time() + TOKEN_S
        ids = [str(uuid.uuid4()) for _ in range(count)]
        return [{"user_id": one, "token": jwt.encode({"sub": one, "exp": until}, self._secret)} for one in ids]

    async def create_product(self, units: int, limit: int | None) -> int:
        """Put a product on sale; no baseline has a limit for each buyer, as their models had none."""
        del limit
        product_id = self.product_id + 1
        await self._shop.create(product_id, name="Phone", price_minor=PRICE_MINOR, currency=CURRENCY, stock=units)
        return product_id

    async def orders(self) -> list[Sold]:
        """Read the orders."""
        rows = await self.pool.fetch(
            "SELECT order_id::text, user_id, status, quantity, extract(EPOCH FROM created_at)::float8 AS created_s, "
            "extract(EPOCH FROM ended_at)::float8 AS ended_s FROM orders WHERE product_id = $1",
            self.product_id,
        )
        return [Sold(**row) for row in rows]

    async def look(self) -> Look:
        """Read the counter that decides, the approach's queues and open transactions, and the orders by state."""
        rows = await self.pool.fetch(
            "SELECT status, count(*) AS orders FROM orders WHERE product_id = $1 GROUP BY status", self.product_id
        )
        working = await self.pool.fetchval(WORKING)
        return Look(
            stock=max(0, await self._shop.stock(self.product_id)),
            queued=await self._shop.waiting(self.product_id) + int(working),
            orders={row["status"]: row["orders"] for row in rows},
        )

    async def order_keys(self) -> Mapping[str, str]:
        """Return nothing: every key names its order."""
        return {}

    def children(self) -> Mapping[str, Sequence[Child]]:
        """Return the processes by role."""
        return self._children

    async def kill_worker(self) -> None:
        """Kill a worker, or an API process where these do all the work."""
        _, workers = BASELINES[self.name]
        victim = self._children[next(iter(workers), "api")][0]
        victim.send(signal.SIGKILL)
        await victim.wait()
