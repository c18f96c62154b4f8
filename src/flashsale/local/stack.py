"""The whole stack on one machine: servers, API processes, workers and the payment gateway simulator."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from flashsale.local.access import DATABASE_ROLES, ensure_database, read_secrets, take_lock, write_secret
from flashsale.local.children import Child, ChildFailed, all_of, pss_bytes, run_to_end, start_ready
from flashsale.local.logs import cut_logs
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.valkey_server import LocalValkey
from flashsale.settings import secrets_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parents[3]
"""The checkout: alembic.ini, migrations/ and workers/ are there."""

BACKLOG = 4096
DATABASE = "flashsale"

POSTGRES_URL, OWNER_URL = "FLASHSALE_POSTGRES__URL", "FLASHSALE_POSTGRES__OWNER_URL"
REDIS_URL, CELL, CELLS = "FLASHSALE_REDIS__URL", "FLASHSALE_CELL__NUMBER", "FLASHSALE_CELL__COUNT"

ROLES = ("simulator", "mailbox", "api", "orders", "payments", "maintenance")
"""The roles other than the servers, in the order of display; all start at the same time."""

_CLI = (sys.executable, "-m", "flashsale.cli")
_WORKER = (sys.executable, "-m", "workers")

COMMANDS: Mapping[str, Sequence[str]] = {
    "migrate": (sys.executable, "-m", "alembic", "upgrade", "head"),
    "admin": (*_CLI, "admin"),
    "cells": (*_CLI, "cells"),
    "simulator": (*_CLI, "simulator"),
    "mailbox": (*_CLI, "mailbox"),
    "api": (*_CLI, "serve"),
    "orders": (*_WORKER, "orders"),
    "payments": (*_WORKER, "payments"),
    "maintenance": (*_WORKER, "maintenance"),
}
"""Commands by role. Roles also get `--fd N`, where they listen, and `--ready-fd N`; `admin` gets `--email E` and
the password on its standard input."""


class Stack:
    """An async context manager: everything runs in the block, and nothing after it.

    Data, logs and secrets are below `data_dir`. `environment` adds settings (FLASHSALE_...) for every process.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        api: int = 2,
        orders: int = 1,
        payments: int = 1,
        mail: bool = False,
        port: int = 8000,
        environment: Mapping[str, str] | None = None,
        postgres_url: str | None = None,
        redis_url: str | None = None,
        commands: Mapping[str, Sequence[str]] | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Set the number of processes of each kind; port 0 takes a free port; `say` is called with each step. `mail`:
        send e-mails to buyers, to a server of the stack that stores them in `mail_dir`.

        Servers named by `postgres_url` and `redis_url`, or by the settings of that name in `environment`, replace the
        stack's own servers. `commands` override COMMANDS.
        """
        self.data_dir = data_dir.resolve()
        self.counts = {
            "simulator": 1,
            "mailbox": int(mail),
            "api": api,
            "orders": orders,
            "payments": payments,
            "maintenance": 1,
        }
        self.postgres: LocalPostgres | None = None
        self.valkey: LocalValkey | None = None
        self._port = port
        self._extra = dict(environment or {})
        for name, url in ((POSTGRES_URL, postgres_url), (REDIS_URL, redis_url)):
            if url is not None:
                self._extra[name] = url
        self._commands = {**COMMANDS, **(commands or {})}
        self.say = say
        """Told of each step."""
        self._running: dict[str, dict[int, Child]] = {role: {} for role in ROLES}
        self._starting = {(role, index): asyncio.Lock() for role in ROLES for index in range(self.counts[role])}
        self._sockets: dict[str, socket.socket] = {}
        self._lock: IO[str] | None = None
        self._reloading = asyncio.Lock()
        self._cutting: asyncio.Task[None] | None = None
        self.environment: dict[str, str] = {}
        """The operator's settings, every secret among them; complete once the stack runs."""
        self.secrets: dict[str, str] = {}

    @property
    def children(self) -> dict[str, list[Child]]:
        """The number of processes of each role other than the servers."""
        return {role: [child for _, child in sorted(running.items())] for role, running in self._running.items()}

    @property
    def base_url(self) -> str:
        """Where the API is."""
        return self.url("api")

    @property
    def gateway_url(self) -> str:
        """Where the payment gateway simulator is."""
        return self.url("simulator")

    def environment_of(self, process: str) -> dict[str, str]:
        """Return the environment of a kind of process: only its own secrets, and its own database user."""
        environment = secrets_for(process, self.environment)
        role = DATABASE_ROLES.get(process)
        if role is not None and self.postgres is not None:
            where = self._postgres_url().rpartition("@")[2]
            environment[POSTGRES_URL] = f"postgresql://{role}:{self.secrets[role]}@{where}"
        return environment

    def url(self, role: str) -> str:
        """Return the URL of a role. Any of its processes answers, and shows the metrics of all (not the simulator)."""
        return f"http://127.0.0.1:{self._sockets[role].getsockname()[1]}"

    @property
    def environment_file(self) -> Path:
        """Where the settings of the running stack are, for a shell: `set -a; . .flashsale/environment; set +a`."""
        return self.data_dir / "environment"

    @property
    def mail_dir(self) -> Path:
        """Where the e-mails to buyers are, a file each."""
        return self.data_dir / "mail"

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
        """Start everything, each part once the parts that it needs are up.

        Raises:
            ChildFailed: if a part does not come up (the text has the end of its log), or `data_dir` cannot be used.
            MissingBinary: if there is no server to start.
        """
        try:
            await self._start()
        except OSError as error:
            place = error.filename or self.data_dir
            raise ChildFailed(f"{place}: {error.strerror or error}. Correct it, or name another --data-dir.") from error

    async def _start(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        refusal = f"Another stack runs on {self.data_dir}: stop it, or name another --data-dir."
        self._lock = take_lock(self.data_dir, refusal)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._close_to_others()
        self.secrets = read_secrets(self.data_dir)
        self._clear_metrics()
        self._listen()
        self._cutting = asyncio.create_task(cut_logs(self.log_dir))
        self.say("starting Postgres and Valkey")
        await self._start_servers()
        self.environment = self._make_environment()
        self._write_environment()
        self.say("migrating the database")
        await self.migrate()
        self.say("starting the payment gateway simulator, API processes and workers")
        await all_of(*(self.start_child(role, index) for role in ROLES for index in range(self.counts[role])))

    async def stop(self) -> None:
        """Stop everything in reverse order; every part may finish its work in progress."""
        try:
            for roles, number in (
                # No other API process follows, so there is no point in waiting for idle clients.
                (("api",), signal.SIGINT),
                (("orders", "payments", "maintenance"), signal.SIGTERM),
                (("simulator", "mailbox"), signal.SIGTERM),
            ):
                await asyncio.gather(*(child.stop(number) for role in roles for child in self._running[role].values()))
            await asyncio.gather(*(server.stop() for server in (self.postgres, self.valkey) if server is not None))
        finally:
            if self._cutting is not None:
                self._cutting.cancel()
            for sock in self._sockets.values():
                sock.close()
            self._sockets.clear()
            if self._lock is not None:
                self.environment_file.unlink(missing_ok=True)
                self._lock.truncate(0)
                self._lock.close()
                self._lock = None

    def abort(self) -> None:
        """Kill every process at once, which also ends a `stop` that waits for them. The data survives."""
        servers = [server.child for server in (self.postgres, self.valkey) if server is not None]
        for child in [*(child for running in self._running.values() for child in running.values()), *servers]:
            if child is not None:
                child.send_all(signal.SIGKILL)

    async def start_child(self, role: str, index: int) -> Child:
        """Start process number `index` of a role, which replaces one that ended; returns the process that runs.

        Raises:
            ChildFailed: if it does not come up.
        """
        async with self._starting[role, index]:
            current = self._running[role].get(index)
            if current is not None and current.returncode is None:
                return current
            return await self._launch(role, index)

    async def roll(self, role: str, index: int = 0) -> Child:
        """Start a new process, then let the old one finish its work and end; returns the new one.

        Raises:
            ChildFailed: if the new process does not come up; the old one then continues.
        """
        async with self._starting[role, index]:
            old = self._running[role][index]
            new = await self._launch(role, index)
        await old.stop()
        return new

    async def reload_keys(self) -> None:
        """Read the keys of the tokens again, and replace the API processes one after the other.

        Raises:
            ChildFailed: if a new process does not come up; the others then continue with the old keys.
        """
        async with self._reloading:
            self.secrets = read_secrets(self.data_dir)
            for name, key in (("JWT_SECRET", "jwt_secret"), ("JWT_SECOND_SECRET", "jwt_second_secret")):
                self.environment[f"FLASHSALE_AUTH__{name}"] = self.secrets[key]
            for index in range(self.counts["api"]):
                await self.roll("api", index)
            self._write_environment()

    async def _launch(self, role: str, index: int) -> Child:
        listener = self._sockets[role].fileno()
        folder = ("--folder", str(self.mail_dir)) if role == "mailbox" else ()
        child = await start_ready(
            f"{role} {index + 1}",
            [*self._commands[role], *folder, "--fd", str(listener)],
            log_path=self.log_dir / f"{role}-{index + 1}.log",
            environment={**self.environment_of(role), "PROMETHEUS_MULTIPROC_DIR": str(self._metrics_dir(role))},
            inherited_fds=[listener],
            cwd=ROOT,
        )
        self._running[role][index] = child
        return child

    async def restart(self, role: str, index: int = 0) -> Child:
        """Stop one process in order, if it runs, and start it again; returns the new one.

        Raises:
            ChildFailed: if the new one does not come up.
        """
        await self._running[role][index].stop()
        return await self.start_child(role, index)

    async def kill(self, role: str, index: int = 0, number: signal.Signals = signal.SIGKILL) -> None:
        """End one process by a signal and wait until it has ended."""
        child = self._running[role][index]
        child.send(number)
        await child.wait()

    async def migrate(self) -> None:
        """Bring the schema up to date and make sure that the administrator exists."""
        await self._run("migrate")
        if self.environment.get(CELL, "0") != "0":
            await self._run("cells", "begin")
            return
        # An existing administrator keeps the password, which may have been changed.
        email, password = self.secrets["admin_email"], self.secrets["admin_password"]
        await self._run("admin", "create", "--if-missing", email, text=password)

    def pss_bytes(self) -> dict[str, int]:
        """Return the memory of each role, in bytes (proportional set size, descendants included)."""
        sizes = {role: sum(pss_bytes(child.pid) for child in children) for role, children in self.children.items()}
        for name, server in (("postgres", self.postgres), ("valkey", self.valkey)):
            if server is not None and server.child is not None:
                sizes[name] = pss_bytes(server.child.pid)
        return sizes

    async def _run(self, name: str, *arguments: str, text: str = "") -> None:
        await run_to_end(
            name,
            [*self._commands[name], *arguments],
            log_path=self.log_dir / f"{name}.log",
            environment=self.environment_of(name),
            cwd=ROOT,
            text=text,
        )

    async def _start_servers(self) -> None:
        starts = []
        if POSTGRES_URL not in self._extra:
            level = {"wal_level": "replica" if {**os.environ, **self._extra}.get(CELLS, "1") == "1" else "logical"}
            log_path = self.log_dir / "postgres.log"
            self.postgres = LocalPostgres(self.data_dir / "postgres", log_path=log_path, settings=level)
            starts.append(self.postgres.start())
        if REDIS_URL not in self._extra:
            self.valkey = LocalValkey(self.data_dir / "valkey", log_path=self.log_dir / "valkey.log")
            starts.append(self.valkey.start())
        await all_of(*starts)
        await ensure_database(self._postgres_url())

    def _postgres_url(self) -> str:
        if self.postgres is None:
            return self._extra[POSTGRES_URL]
        return self.postgres.url.rpartition("/")[0] + f"/{DATABASE}"

    def _listen(self) -> None:
        for role in ROLES:
            port = self._port if role == "api" else 0
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
            "FLASHSALE_AUTH__JWT_SECOND_SECRET": self.secrets["jwt_second_secret"],
            "FLASHSALE_PAYMENTS__GATEWAY_URL": self.gateway_url,
            "FLASHSALE_PAYMENTS__GATEWAY_SECRET": self.secrets["gateway_secret"],
            "FLASHSALE_SIMULATOR__LEDGER_PATH": str(self.data_dir / "gateway-ledger.jsonl"),
            "FLASHSALE_OUTBOX__LOOPBACK_ALLOWED": "true",
        }
        if self.counts["mailbox"]:
            environment["FLASHSALE_MAIL__URL"] = self.url("mailbox").replace("http://", "smtp://")
        environment[POSTGRES_URL] = self._postgres_url()
        if self.postgres is None:
            environment.setdefault(OWNER_URL, self._postgres_url())
        else:
            environment[OWNER_URL] = self._postgres_url()
            environment["FLASHSALE_POSTGRES__API_PASSWORD"] = self.secrets["flashsale_api"]
            environment["FLASHSALE_POSTGRES__WORKER_PASSWORD"] = self.secrets["flashsale_worker"]
        if self.valkey is not None:
            environment[REDIS_URL] = self.valkey.url
        return {**environment, **self._extra}

    def _write_environment(self) -> None:
        named = {name: value for name, value in self.environment.items() if name.startswith("FLASHSALE_")}
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in named.items()]
        write_secret(self.environment_file, "".join(lines))

    def _metrics_dir(self, role: str) -> Path:
        return self.data_dir / "metrics" / role

    def _close_to_others(self) -> None:
        """Let no other user read the stack's files; Postgres, which may run as another user, may enter the folder."""
        self.data_dir.chmod(0o711)
        for folder in (self.log_dir, self.data_dir / "metrics"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
        ledger = self.data_dir / "gateway-ledger.jsonl"
        ledger.touch()
        ledger.chmod(0o600)

    def _clear_metrics(self) -> None:
        for role in ROLES:
            folder = self._metrics_dir(role)
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("*.db"):
                old.unlink()
