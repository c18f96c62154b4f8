"""A primary with a synchronous standby, and a gate with a replica, from the binaries of the local stack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.local.access import free_port, write_secret
from flashsale.local.binaries import postgres_bin
from flashsale.local.children import run_to_end
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.stack import COMMANDS, DATABASE, POSTGRES_URL, Stack
from flashsale.local.valkey_server import LocalValkey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

UP_S = 30.0


async def back_up(primary: LocalPostgres, folder: Path, *, stream: bool) -> LocalPostgres:
    """Copy a running server into a folder; returns the server that the copy is. `stream`: it follows the primary."""
    parts = urlsplit(primary.url)
    _name_port(folder, parts.password or "")
    binaries = postgres_bin(None, copies=folder / "binaries", for_everybody=False)
    options = ["-D", str(folder / "cluster"), "-c", "fast", "-X", "stream", *(["-R"] if stream else [])]
    await run_to_end(
        "pg_basebackup",
        [str(binaries / "pg_basebackup"), "-d", f"postgresql://flashsale@127.0.0.1:{parts.port}/", *options],
        log_path=folder / "pg_basebackup.log",
        environment={**os.environ, "PGPASSWORD": parts.password or ""},
    )
    return LocalPostgres(folder)


def _name_port(folder: Path, password: str) -> None:
    """Give a copy a port of its own; it has the passwords of the primary's users."""
    folder.mkdir(parents=True)
    write_secret(folder / "access", f"{free_port()} {password}\n")


async def run_statement(url: str, statement: str) -> Any:
    """Run a statement on a server, one that is a standby too; its COMMIT waits for nobody."""
    connection = await asyncpg.connect(url, timeout=5, server_settings={"synchronous_commit": "local"})
    try:
        return await connection.fetchval(statement)
    finally:
        connection.terminate()


async def until(url: str, statement: str) -> None:
    """Wait until a statement of a server gives true."""
    async with asyncio.timeout(UP_S):
        while True:
            try:
                if await run_statement(url, statement):
                    return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass
            await asyncio.sleep(0.05)


class StandbyStack(Stack):
    """The stack on a primary with a synchronous standby, and a gate with a replica."""

    def __init__(self, folder: Path, *, guarded: bool, environment: Mapping[str, str]) -> None:
        """Without the guards, the processes run with the guards of a COMMIT taken away."""
        commands = {}
        if not guarded:
            for role in ("api", "orders", "payments", "maintenance"):
                _, _, *module = COMMANDS[role]
                commands[role] = (sys.executable, "-m", "tests.failover.unguarded", *module)
        super().__init__(folder, api=2, payments=1, port=0, environment=environment, commands=commands)
        self.primary = LocalPostgres(folder / "one", log_path=folder / "logs" / "one.log")
        self.standby: LocalPostgres
        self._receiver: psutil.Process | None = None
        self.replica = LocalValkey(folder / "replica", log_path=folder / "logs" / "replica.log")

    async def _start_servers(self) -> None:
        await self.primary.start()
        self.standby = await back_up(self.primary, self.data_dir / "two", stream=True)
        await self.standby.start()
        await run_statement(self.primary.url, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        await run_statement(self.primary.url, "SELECT pg_reload_conf()")
        await until(self.primary.url, "SELECT bool_or(sync_state = 'sync') FROM pg_stat_replication")
        one, two = urlsplit(self.primary.url), urlsplit(self.standby.url)
        hosts = f"127.0.0.1:{one.port},127.0.0.1:{two.port}"
        self._extra[POSTGRES_URL] = (
            f"postgresql://flashsale:{one.password}@{hosts}/{DATABASE}?target_session_attrs=read-write"
        )
        await super()._start_servers()
        await self.replica.start()
        if self.valkey is None:
            raise AssertionError
        gate = urlsplit(self.valkey.url)
        async with Redis.from_url(self.replica.url) as replica:
            await replica.config_set("masterauth", gate.password or "")
            await replica.replicaof("127.0.0.1", str(gate.port))

    async def stop(self) -> None:
        """Stop everything; servers that a fault killed are gone already."""
        await super().stop()
        # These may have been stopped by a signal, and then end by no other.
        self._end_receiver()
        await self.primary.kill()
        servers = [self.replica, getattr(self, "standby", None)]
        await asyncio.gather(*(server.stop() for server in servers if server is not None))

    def freeze_receiver(self) -> None:
        """Stop the standby's receiver, so that it confirms nothing more."""
        if self.standby.child is None:
            raise AssertionError
        for process in psutil.Process(self.standby.child.pid).children(recursive=True):
            if "walreceiver" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGSTOP)
                self._receiver = process
                return
        raise AssertionError("The standby has no receiver.")

    def cut_off_primary(self) -> None:
        """Let the primary answer nothing, while its machine keeps its connections open."""
        if self.primary.child is None:
            raise AssertionError
        self.primary.child.send_all(signal.SIGSTOP)

    def _end_receiver(self) -> None:
        if self._receiver is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._receiver.kill()

    async def promote(self) -> None:
        """Make the standby the primary. What its receiver had not read is lost with the receiver."""
        self._end_receiver()
        # The standby restarts by itself after the death of one of its processes.
        await until(self.standby.url, "SELECT pg_is_in_recovery()")
        async with asyncio.timeout(UP_S):
            while True:
                try:
                    if await run_statement(self.standby.url, "SELECT pg_promote(true, 20)"):
                        return
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await asyncio.sleep(0.1)

    async def promote_replica(self) -> None:
        """Kill the gate's server; its replica takes over the address, as behind a name that moves."""
        if self.valkey is None:
            raise AssertionError
        port = urlsplit(self.valkey.url).port
        await self.valkey.kill()
        async with Redis.from_url(self.replica.url) as replica:
            await replica.replicaof("NO", "ONE")
            # The replica has a password of its own; the name that moves is that of the gate.
            await replica.config_set("requirepass", urlsplit(self.valkey.url).password or "")
            async with asyncio.timeout(UP_S):
                while not await _takes_port(replica, port):
                    await asyncio.sleep(0.05)


async def _takes_port(replica: Redis, port: int | None) -> bool:
    try:
        await replica.config_set("port", str(port))
    except RedisError:
        return False
    return True
