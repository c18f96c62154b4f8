"""A Postgres server of our own, on loopback, for one machine."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from flashsale.local.binaries import postgres_bin
from flashsale.local.children import Child, ChildFailed, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

NOBODY = 65534

SETTINGS: Mapping[str, str] = {
    # Loopback only, no socket files (their paths may be too long).
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    # Units are updated once and again: clean up before the free list's index grows.
    "autovacuum_naptime": "5s",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}
"""Differences from Postgres' defaults; fsync and synchronous_commit are never among them."""


def free_port() -> int:
    """Give a loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class LocalPostgres:
    """One server and its data; start, stop, kill and start again on the same port and data."""

    def __init__(
        self, data_dir: Path, *, log_path: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """Keep everything below `data_dir`, which is made when needed."""
        self._data_dir = data_dir
        self._log_path = log_path or data_dir / "postgres.log"
        self._settings = {**SETTINGS, **(settings or {})}
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """Where the server is, with its password; database `postgres`."""
        port, password = (self._data_dir / "access").read_text().split()
        return f"postgresql://flashsale:{password}@127.0.0.1:{port}/postgres"

    async def start(self) -> str:
        """Make the data if there is none, start the server, wait until it answers, give its URL.

        Raises:
            ChildFailed: with the end of the log, if it does not come up.
        """
        binaries = postgres_bin()
        prefix = _unprivileged(self._data_dir)
        cluster = self._data_dir / "cluster"
        if not (cluster / "PG_VERSION").exists():
            self._initialise(prefix, binaries, cluster)
        # A killed server leaves its pid file; a new one with the same pid would be taken for it.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        port = self.url.rpartition(":")[2].partition("/")[0]
        options = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
        self.child = Child(
            "postgres",
            [*prefix, str(binaries / "postgres"), "-D", str(cluster), "-p", port, *options],
            log_path=self._log_path,
        )
        await wait_until(self._answers, child=self.child, timeout_s=60, what="answer")
        return self.url

    async def stop(self) -> None:
        """Stop it in order: running transactions are rolled back, the data is written out."""
        if self.child is not None:
            await self.child.stop(signal.SIGINT)

    async def kill(self) -> None:
        """Kill it at once, as a crash would."""
        if self.child is not None:
            self.child.send(signal.SIGKILL)
            await self.child.wait()

    def _initialise(self, prefix: list[str], binaries: Path, cluster: Path) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._data_dir.chmod(0o700)
        if cluster.exists():
            # An initdb that was cut off.
            shutil.rmtree(cluster)
        password = secrets.token_hex(16)
        with tempfile.NamedTemporaryFile("w", dir=self._data_dir, suffix=".pw") as file:
            file.write(password)
            file.flush()
            # Not synced here: the server's first checkpoint is, before anything of ours is committed.
            done = subprocess.run(  # noqa: S603
                [
                    *prefix,
                    str(binaries / "initdb"),
                    "-D",
                    str(cluster),
                    "-U",
                    "flashsale",
                    "--pwfile",
                    file.name,
                    "--auth",
                    "scram-sha-256",
                    "--encoding",
                    "UTF8",
                    "--locale",
                    "C.UTF-8",
                    "--no-sync",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise ChildFailed(f"initdb failed: {(done.stderr or done.stdout).strip()[-500:]}")
        access = self._data_dir / "access"
        access.touch(mode=0o600)
        access.write_text(f"{free_port()} {password}\n")

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url, timeout=2)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False
        await connection.close()
        return True


def _unprivileged(data_dir: Path) -> list[str]:
    """Give the command prefix under which Postgres, which refuses root, runs as somebody else."""
    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    if shutil.which("unshare") and not subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:  # noqa: S603
        return prefix
    # No user namespaces here: be nobody for real. The data must be theirs and within their reach.
    data_dir.mkdir(parents=True, exist_ok=True)
    for path in (data_dir, *data_dir.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for parent in data_dir.resolve().parents:
        if not parent.stat().st_mode & 0o001:
            raise ChildFailed(
                f"Postgres may not run as root, and user nobody cannot enter {parent}: run as an ordinary user, "
                f"or use a data folder under /tmp."
            )
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--pdeathsig=KILL"]
