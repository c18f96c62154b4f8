"""A Valkey (or Redis) server of our own, on loopback, for one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.local.access import write_secret
from flashsale.local.binaries import redis_server
from flashsale.local.server import LocalServer, Program

if TYPE_CHECKING:
    from collections.abc import Sequence


class LocalValkey(LocalServer):
    """A Valkey (or Redis) server that writes no snapshot and no log of commands by itself."""

    name = "valkey"
    start_s = 30.0

    def __init__(
        self, data_dir: Path, *, binary: Path | None = None, port: int | None = None, log_path: Path | None = None
    ) -> None:
        """Keep everything below `data_dir`, which is created on demand; without `binary`, search for the program."""
        super().__init__(data_dir, home=data_dir, pid_file=data_dir / "valkey.pid", port=port, log_path=log_path)
        self._binary = binary

    @property
    def url(self) -> str:
        """Where the server is, with its password."""
        port, password = self._port_and_password()
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def wipe(self) -> None:
        """Delete the snapshot of a stopped server, if one exists."""
        (self._data_dir / "dump.rdb").unlink(missing_ok=True)

    def _find(self) -> Program:
        return Program(redis_server(self._binary, copies=self._data_dir / "binaries"))

    async def _prepare(self, _: Program, port: int, password: str) -> Sequence[str]:
        self._data_dir.chmod(0o700)
        # The password goes into a file, because every user of the machine can read a command's arguments.
        configuration = self._data_dir / "valkey.conf"
        write_secret(
            configuration,
            f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{self._data_dir.resolve()}"\n'
            f'pidfile "{self._pid_file.resolve()}"\n'
            "appendonly no\nsave ''\nmaxmemory-policy noeviction\ndaemonize no\n",
        )
        return [str(configuration.resolve())]

    async def _answers(self) -> bool:
        client = Redis.from_url(self.url, socket_timeout=1)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()
