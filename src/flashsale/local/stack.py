"""The whole stack on one machine: servers, API processes, workers and the payment gateway simulator."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import asyncpg

from flashsale.local.children import Child, ChildFailed, pss_bytes, start_ready
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.valkey_server import LocalValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[3]
"""The checkout: alembic.ini, migrations/ and workers/ are there."""

BACKLOG = 4096
ADMIN_EMAIL = "admin@flashsale.invalid"
DATABASE = "flashsale"

ROLES = ("simulator", "api", "orders", "payments", "maintenance")
"""What runs beside the servers, in the order in which it starts."""


class Stack:
    """An async context manager: inside, everything runs; after it, nothing does.

    Data, logs and secrets are below `data_dir`. `environment` adds settings (FLASHSALE_...) for every process.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        api: int = 2,
        orders: int = 1,
        payments: int = 1,
        port: int = 8000,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Say how many processes of each kind; port 0 takes a free one. `say` is told of each step."""
        self.data_dir = data_dir.resolve()
        self.counts = {"simulator": 1, "api": api, "orders": orders, "payments": payments, "maintenance": 1}
        self._places: dict[tuple[str, int], Child] = {}
        self.postgres: LocalPostgres | None = None
        self.valkey: LocalValkey | None = None
        self._port = port
        self._extra = dict(environment or {})
        self.say = say
        """Told of each step."""
        self._sockets: dict[str, socket.socket] = {}
        self._lock: IO[str] | None = None
        self.environment: dict[str, str] = {}
        """What the processes get; complete once the stack runs."""
        self.secrets: dict[str, str] = {}

    @property
    def children(self) -> dict[str, list[Child]]:
        """The newest process in each place, by role and number."""
        placed = sorted(self._places.items())
        return {role: [child for (of, _), child in placed if of == role] for role in ROLES}

    @property
    def base_url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self._sockets['api'].getsockname()[1]}"

    @property
    def gateway_url(self) -> str:
        """Where the payment gateway simulator is."""
        return f"http://127.0.0.1:{self._sockets['simulator'].getsockname()[1]}"

    @property
    def log_dir(self) -> Path:
        """Where the logs are."""
        return self.data_dir / "logs"

    async def __aenter__(self) -> Self:
        """Start everything; stops what runs if a part fails."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop everything."""
        await self.stop()

    async def start(self) -> None:
        """Start everything, each part once what it needs is there.

        Raises:
            ChildFailed: if a part does not come up; says which, with the end of its log.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self.secrets = self._read_secrets()
        self.say("starting Postgres and Valkey")
        await self._start_servers()
        self._listen()
        self.environment = self._make_environment()
        self.say("migrating the database")
        await self.migrate()
        self.say("starting the payment gateway simulator, API processes and workers")
        await asyncio.gather(*(self.start_child(role, index) for role in ROLES for index in range(self.counts[role])))

    async def stop(self) -> None:
        """Stop everything in reverse order; every part may finish what it has begun."""
        for role in ("api", "orders", "payments", "maintenance", "simulator"):
            await asyncio.gather(*(child.stop() for child in self.children[role]))
        await asyncio.gather(*(server.stop() for server in (self.postgres, self.valkey) if server is not None))
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def start_child(self, role: str, index: int) -> Child:
        """Start process number `index` of a role, in the place of one that ended."""
        command = [sys.executable, "-m", "flashsale.cli", "serve" if role == "api" else role]
        inherited = []
        if role in self._sockets:
            inherited = [self._sockets[role].fileno()]
            command += ["--fd", str(inherited[0])]
        else:
            command = [sys.executable, "-m", "workers", role]
        child = await start_ready(
            f"{role} {index + 1}",
            command,
            log_path=self.log_dir / f"{role}-{index + 1}.log",
            environment=self.environment,
            inherited_fds=inherited,
            cwd=ROOT,
        )
        self._places[role, index] = child
        return child

    async def kill(self, role: str, index: int = 0, number: signal.Signals = signal.SIGKILL) -> None:
        """End one process by a signal and wait until it is gone."""
        child = self.children[role][index]
        child.send(number)
        await child.wait()

    async def migrate(self) -> None:
        """Bring the schema up to date and make sure that the administrator exists."""
        await self._run(sys.executable, "-m", "alembic", "upgrade", "head")
        await self._run(
            *(sys.executable, "-m", "flashsale.cli", "admin", "--email", self.secrets["admin_email"]),
            text=self.secrets["admin_password"],
        )

    def pss_bytes(self) -> dict[str, int]:
        """Give the memory of each role, in bytes (proportional set size, descendants included)."""
        sizes = {role: sum(pss_bytes(child.pid) for child in children) for role, children in self.children.items()}
        for name, server in (("postgres", self.postgres), ("valkey", self.valkey)):
            if server is not None and server.child is not None:
                sizes[name] = pss_bytes(server.child.pid)
        return sizes

    async def _run(self, *command: str, text: str | None = None) -> None:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            cwd=ROOT,
        )
        output, _ = await process.communicate(None if text is None else text.encode())
        if process.returncode:
            raise ChildFailed(f"{' '.join(command[1:4])} failed:\n{output.decode(errors='replace').strip()}")

    async def _start_servers(self) -> None:
        starts = []
        if "FLASHSALE_POSTGRES__URL" not in self._extra:
            self.postgres = LocalPostgres(self.data_dir / "postgres", log_path=self.log_dir / "postgres.log")
            starts.append(self.postgres.start())
        if "FLASHSALE_REDIS__URL" not in self._extra:
            self.valkey = LocalValkey(self.data_dir / "valkey", log_path=self.log_dir / "valkey.log")
            starts.append(self.valkey.start())
        await asyncio.gather(*starts)
        if self.postgres is not None:
            connection = await asyncpg.connect(self.postgres.url)
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
            await connection.close()

    def _listen(self) -> None:
        for role, port in (("api", self._port), ("simulator", 0)):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sockets[role] = sock
            try:
                sock.bind(("127.0.0.1", port))
            except OSError as error:
                raise ChildFailed(f"Port {port} is in use: name another one with --port, or 0 for any.") from error
            sock.listen(BACKLOG)

    def _make_environment(self) -> dict[str, str]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
            "FLASHSALE_AUTH__JWT_SECRET": self.secrets["jwt_secret"],
            "FLASHSALE_PAYMENTS__GATEWAY_URL": self.gateway_url,
            "FLASHSALE_PAYMENTS__GATEWAY_SECRET": self.secrets["gateway_secret"],
            "FLASHSALE_SIMULATOR__LEDGER_PATH": str(self.data_dir / "gateway-ledger.jsonl"),
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics_dir()),
        }
        if self.postgres is not None:
            environment["FLASHSALE_POSTGRES__URL"] = self.postgres.url.rpartition("/")[0] + f"/{DATABASE}"
        if self.valkey is not None:
            environment["FLASHSALE_REDIS__URL"] = self.valkey.url
        return {**environment, **self._extra}

    def _metrics_dir(self) -> Path:
        folder = self.data_dir / "metrics"
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.db"):
            old.unlink()
        return folder

    def _read_secrets(self) -> dict[str, str]:
        path = self.data_dir / "secrets.json"
        if not path.exists():
            path.touch(mode=0o600)
            made = {
                "jwt_secret": secrets.token_urlsafe(48),
                "gateway_secret": secrets.token_urlsafe(24),
                "admin_email": ADMIN_EMAIL,
                "admin_password": secrets.token_urlsafe(18),
            }
            path.write_text(json.dumps(made, indent=2) + "\n")
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    def _take_lock(self) -> None:
        lock = (self.data_dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ChildFailed(f"Another stack runs on {self.data_dir}: stop it, or name another --data-dir.") from None
        self._lock = lock
