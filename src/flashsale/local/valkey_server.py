"""A Valkey (or Redis) server of our own, on loopback, for one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.local.access import LAST_BREATH_S, ORPHANS_S, read_access, write_secret
from flashsale.local.binaries import redis_server
from flashsale.local.children import Child, ChildFailed, wait_gone, wait_until, working_in

if TYPE_CHECKING:
    from collections.abc import Sequence


class LocalValkey:
    """One server that writes nothing to disk by itself; start, stop, kill, wipe and start again on the same port."""

    def __init__(
        self, data_dir: Path, *, binary: Path | None = None, port: int | None = None, log_path: Path | None = None
    ) -> None:
        """Keep everything below `data_dir`, which is made when needed; `binary` is looked for by default."""
        self._data_dir = data_dir
        self._binary = binary
        self._port = port
        self._log_path = log_path or data_dir / "valkey.log"
        self._pid_file = data_dir / "valkey.pid"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """Where the server is, with its password."""
        port, password = (self._data_dir / "access").read_text().split()
        return f"redis://:{password}@127.0.0.1:{port}/0"

    async def start(self) -> str:
        """Start the server, wait until it answers, give its URL.

        Raises:
            ChildFailed: with the end of the log, if it does not come up; nothing is left running then.
            MissingBinary: if there is no server to start.
        """
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._data_dir.chmod(0o700)
        binary = redis_server(self._binary, copies=self._data_dir / "binaries")
        await self._clear_dead_server(binary.name)
        port, password = read_access(self._data_dir, self._port, keep=self.child is not None)
        # The password goes in a file: arguments can be read by every user of the machine.
        configuration = self._data_dir / "valkey.conf"
        write_secret(
            configuration,
            f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{self._data_dir.resolve()}"\n'
            f'pidfile "{self._pid_file.resolve()}"\n'
            "appendonly no\nsave ''\nmaxmemory-policy noeviction\ndaemonize no\n",
        )
        command: Sequence[str] = [str(binary), str(configuration.resolve())]
        self.child = Child("valkey", command, log_path=self._log_path)
        try:
            await wait_until(self._answers, child=self.child, timeout_s=30, what="answer")
        except BaseException:
            await self.kill()
            raise
        return self.url

    async def stop(self) -> None:
        """Stop it in order."""
        if self.child is not None:
            await self.child.stop()

    async def kill(self) -> None:
        """Kill it at once with the child that writes a snapshot, if there is one, as a crash would."""
        if self.child is not None:
            await self.child.kill_all()

    async def restart(self) -> str:
        """Stop it in order, if it runs, and start it on the same port and data; returns its URL."""
        await self.stop()
        return await self.start()

    def wipe(self) -> None:
        """Delete the snapshot of a stopped server, if one exists."""
        (self._data_dir / "dump.rdb").unlink(missing_ok=True)

    async def _clear_dead_server(self, program: str) -> None:
        """Make sure that no server runs on the data, and end what a dead one left.

        A server keeps its data folder as its working directory. The child that it forks to write a snapshot does not
        die with it, but needs a second or two to notice (Valkey 9).

        Raises:
            ChildFailed: if a server runs there.
        """
        left = working_in(self._data_dir, program)
        # One whose launcher has just died is about to go.
        if not left or await wait_gone(left, timeout_s=LAST_BREATH_S):
            return
        try:
            server = int(self._pid_file.read_text())
        except (OSError, ValueError):
            server = left[0]
        if server in left:
            raise ChildFailed(f"A server (process {server}) already runs on {self._data_dir}.")
        if not await wait_gone(left, timeout_s=ORPHANS_S, kill=True):
            raise ChildFailed(f"Processes {left} of a dead server do not leave {self._data_dir}.")

    async def _answers(self) -> bool:
        client = Redis.from_url(self.url, socket_timeout=1)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()
