"""A Postgres server of our own, on loopback, for one machine."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from flashsale.local.binaries import closed_to_others, postgres_bin
from flashsale.local.children import ChildFailed, run_to_end
from flashsale.local.server import LocalServer, Program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOBODY = 65534

SETTINGS: Mapping[str, str] = {
    # Loopback only, no socket files (their paths may be too long).
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    # In a young cluster a COMMIT creates each new segment while all others wait: 60 ms if the segment is zeroed.
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


class LocalPostgres(LocalServer):
    """A Postgres server. An orderly stop rolls running transactions back and writes the data to disk."""

    name = "postgres"
    start_s = 60.0
    stop_signal = signal.SIGINT

    def __init__(
        self,
        data_dir: Path,
        *,
        binaries: Path | None = None,
        port: int | None = None,
        log_path: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Keep everything below `data_dir`, which is created on demand.

        `binaries` is the folder with `postgres` and `initdb`; None searches for it. `settings` override SETTINGS.
        """
        self._cluster = data_dir / "cluster"
        super().__init__(
            data_dir, home=self._cluster, pid_file=self._cluster / "postmaster.pid", port=port, log_path=log_path
        )
        self._binaries = binaries
        self._settings = {**SETTINGS, **(settings or {})}

    @property
    def url(self) -> str:
        """Where the server is, with its password; database `postgres`."""
        port, password = self._port_and_password()
        return f"postgresql://flashsale:{password}@127.0.0.1:{port}/postgres"

    def _find(self) -> Program:
        prefix, user_id = _unprivileged(self._data_dir)
        copies = self._data_dir / "binaries"
        binaries = postgres_bin(self._binaries, copies=copies, for_everybody=user_id is not None)
        return Program(binaries / "postgres", prefix, user_id)

    async def _prepare(self, program: Program, port: int, password: str) -> Sequence[str]:
        if not self._cluster.exists():
            await self._initialise(program, password)
        if os.geteuid() == 0:
            _give(self._cluster, program.user_id)
        options = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
        return ["-D", str(self._cluster), "-p", str(port), *options]

    async def _initialise(self, program: Program, password: str) -> None:
        user_id = program.user_id
        self._data_dir.chmod(0o700 if user_id is None else 0o711)
        # Created under another name and renamed, so that an interrupted initdb leaves no folder that looks complete.
        # initdb syncs its files (0.1 s), because the server's checkpoints sync only pages written since its start.
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
                [
                    *program.prefix,
                    str(program.path.with_name("initdb")),
                    "-D",
                    str(new),
                    "--locale",
                    "C.UTF-8",
                    *options,
                ],
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
    """Return the command prefix, or the user, under which Postgres agrees to run.

    Postgres refuses root, and users without a name, which are common in containers.

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
    # Without user namespaces Postgres runs as the real user `nobody`, who must be able to reach the data.
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
    """Make the server's user the owner of the data; an earlier start may have used another user."""
    owner = user_id or 0
    if cluster.stat().st_uid != owner:
        for path in (*cluster.rglob("*"), cluster):
            os.chown(path, owner, owner, follow_symlinks=False)
    if user_id is not None:
        cluster.parent.chmod(0o711)
