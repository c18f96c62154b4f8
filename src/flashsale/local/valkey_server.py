"""A Valkey (or Redis) server of our own, on loopback, for one machine."""

from __future__ import annotations

import secrets
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.local.binaries import redis_server
from flashsale.local.children import Child, wait_until
from flashsale.local.postgres_server import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence


class LocalValkey:
    """One server and its append-only file; start, stop, kill, wipe and start again on the same port."""

    def __init__(self, data_dir: Path, *, log_path: Path | None = None) -> None:
        """Keep everything below `data_dir`, which is made when needed."""
        self._data_dir = data_dir
        self._log_path = log_path or data_dir / "valkey.log"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """Where the server is, with its password."""
        port, password = (self._data_dir / "access").read_text().split()
        return f"redis://:{password}@127.0.0.1:{port}/0"

    async def start(self) -> str:
        """Start the server, wait until it answers, give its URL.

        Raises:
            ChildFailed: with the end of the log, if it does not come up.
        """
        self._data_dir.mkdir(parents=True, exist_ok=True)
        access = self._data_dir / "access"
        if not access.exists():
            access.touch(mode=0o600)
            access.write_text(f"{free_port()} {secrets.token_hex(16)}\n")
        port, password = access.read_text().split()
        # The password goes in a file: arguments can be read by every user of the machine.
        configuration = self._data_dir / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {self._data_dir.resolve()}\n"
            "appendonly yes\nappendfsync everysec\nsave ''\nmaxmemory-policy noeviction\ndaemonize no\n"
        )
        command: Sequence[str] = [str(redis_server()), str(configuration)]
        self.child = Child("valkey", command, log_path=self._log_path)
        await wait_until(self._answers, child=self.child, timeout_s=30, what="answer")
        return self.url

    async def stop(self) -> None:
        """Stop it in order."""
        if self.child is not None:
            await self.child.stop()

    async def kill(self) -> None:
        """Kill it at once, as a crash would."""
        if self.child is not None:
            self.child.send(signal.SIGKILL)
            await self.child.wait()

    def wipe(self) -> None:
        """Delete the data of a stopped server."""
        shutil.rmtree(self._data_dir / "appendonlydir", ignore_errors=True)

    async def _answers(self) -> bool:
        client = Redis.from_url(self.url, socket_timeout=1)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()
