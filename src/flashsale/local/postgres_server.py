"""A Postgres server of our own, on loopback, for one machine."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from flashsale.local.access import LAST_BREATH_S, ORPHANS_S, read_access
from flashsale.local.binaries import closed_to_others, postgres_bin
from flashsale.local.children import Child, ChildFailed, run_to_end, wait_gone, wait_until, working_in

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
    # In a young cluster some COMMIT makes each new segment, and all others wait for it: 60 ms if it is filled first.
    "wal_init_zero": "off",
    "wal_compression": "on",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    # No row reaches the log: no DETAIL (which shows rows), no statement with its values, no parameter.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
"""Differences from Postgres' defaults; fsync and synchronous_commit are never among them."""


class LocalPostgres:
    """One server and its data; start, stop, kill and start again on the same port and data."""

    def __init__(
        self,
        data_dir: Path,
        *,
        binaries: Path | None = None,
        port: int | None = None,
        log_path: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Keep everything below `data_dir`, which is made when needed.

        `binaries` is the folder with `postgres` and `initdb`, looked for by default; `settings` go over SETTINGS.
        """
        self._data_dir = data_dir
        self._cluster = data_dir / "cluster"
        self._binaries = binaries
        self._port = port
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
            ChildFailed: with the end of the log, if it does not come up; nothing is left running then.
            MissingBinary: if there is no server to start.
        """
        self._data_dir.mkdir(parents=True, exist_ok=True)
        await self._clear_dead_server()
        prefix, user_id = _unprivileged(self._data_dir)
        copies = self._data_dir / "binaries"
        binaries = postgres_bin(self._binaries, copies=copies, for_everybody=user_id is not None)
        port, password = read_access(self._data_dir, self._port, keep=self.child is not None)
        if not self._cluster.exists():
            await self._initialise(prefix, user_id, binaries, password)
        if os.geteuid() == 0:
            _give(self._cluster, user_id)
        options = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
        self.child = Child(
            "postgres",
            [*prefix, str(binaries / "postgres"), "-D", str(self._cluster), "-p", str(port), *options],
            log_path=self._log_path,
            user_id=user_id,
        )
        try:
            await wait_until(self._answers, child=self.child, timeout_s=60, what="answer")
        except BaseException:
            # With its processes: one that recovers or syncs data would go on for seconds.
            await self.kill()
            raise
        return self.url

    async def stop(self) -> None:
        """Stop it in order: running transactions are rolled back, the data is written out."""
        if self.child is not None:
            await self.child.stop(signal.SIGINT)

    async def kill(self) -> None:
        """Kill it with all its processes, as a crash does."""
        if self.child is not None:
            # Sessions in the middle of a long computation would go on without the postmaster until they look up.
            await self.child.kill_all()

    async def restart(self) -> str:
        """Stop it in order, if it runs, and start it on the same port and data; returns its URL."""
        await self.stop()
        return await self.start()

    async def _clear_dead_server(self) -> None:
        """Make sure that no server runs on the data, and remove the pid file of one that was killed.

        That file alone must not be trusted, nor removed lightly: its number may be somebody else's by now, and a new
        postmaster next to sessions of the old one would destroy the data. The processes themselves show it: all
        of a server's work in its data folder.

        Raises:
            ChildFailed: if a server runs there.
        """
        pid_file = self._cluster / "postmaster.pid"
        if not pid_file.exists():
            return
        left = working_in(self._cluster, "postgres")
        if left and not await wait_gone(left, timeout_s=LAST_BREATH_S):
            with contextlib.suppress(OSError, ValueError, IndexError):
                postmaster = int(pid_file.read_text().split()[0])
                if postmaster in left:
                    raise ChildFailed(f"A Postgres server (process {postmaster}) already runs on {self._data_dir}.")
            # Sessions whose postmaster is dead: they end after their statement, and may not commit any more.
            if not await wait_gone(left, timeout_s=ORPHANS_S, kill=True):
                raise ChildFailed(f"Processes {left} of a dead Postgres server do not leave {self._data_dir}.")
        pid_file.unlink(missing_ok=True)

    async def _initialise(self, prefix: list[str], user_id: int | None, binaries: Path, password: str) -> None:
        self._data_dir.chmod(0o700 if user_id is None else 0o711)
        # Created under another name and renamed: an interrupted initdb leaves nothing that looks like data. It syncs
        # its files (0.1 s), because the server's checkpoints sync only pages that were written since its start.
        new = self._data_dir / "cluster.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=self._data_dir, suffix=".pw") as file:
            file.write(password)
            file.flush()
            if user_id is not None:
                os.chown(new, user_id, user_id)
                os.chown(file.name, user_id, user_id)
            options = ["-U", "flashsale", "--pwfile", file.name, "--auth", "scram-sha-256", "--encoding", "UTF8"]
            await run_to_end(
                "initdb",
                [*prefix, str(binaries / "initdb"), "-D", str(new), "--locale", "C.UTF-8", *options],
                log_path=self._log_path.with_name("initdb.log"),
                user_id=user_id,
            )
        new.rename(self._cluster)

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url, timeout=2)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False
        await connection.close()
        return True


def _unprivileged(data_dir: Path) -> tuple[list[str], int | None]:
    """Return the command prefix, or the user, with which Postgres runs as somebody that it accepts.

    It refuses root, and users without a name (as containers are often given).

    Raises:
        ChildFailed: if that user could not reach the data.
    """
    if os.geteuid() != 0 and _has_name(os.geteuid()):
        return [], None
    prefix = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    if shutil.which("unshare") and not subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:  # noqa: S603
        return prefix, None
    if os.geteuid() != 0:
        raise ChildFailed(f"Postgres needs a user with a name, and user {os.geteuid()} has none in /etc/passwd.")
    # No user namespaces here: be nobody for real. The data must be within their reach.
    if (closed := closed_to_others(data_dir)) is not None:
        raise ChildFailed(
            f"Postgres may not run as root, and user nobody cannot enter {closed}: run as an ordinary user, "
            "or name another --data-dir."
        )
    return [], NOBODY


def _has_name(user_id: int) -> bool:
    try:
        pwd.getpwuid(user_id)
    except KeyError:
        return False
    return True


def _give(cluster: Path, user_id: int | None) -> None:
    """Let the data belong to whom the server runs as: earlier it may have run the other way."""
    owner = user_id or 0
    if cluster.stat().st_uid != owner:
        for path in (*cluster.rglob("*"), cluster):
            os.chown(path, owner, owner, follow_symlinks=False)
    if user_id is not None:
        cluster.parent.chmod(0o711)
