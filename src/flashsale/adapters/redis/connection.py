"""One connection to the gate's server that knows which server process it talks to."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hiredis
import structlog
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flashsale.settings.groups import RedisSettings

log = structlog.get_logger(__name__)

SCRIPTS = Path(__file__).parent / "scripts"

Command = tuple[Any, ...]


class GateAway(Exception):
    """The server cannot be reached or did not answer in time; it may have executed what was sent."""


class GateRefuses(Exception):
    """The server is up and cannot serve as a gate."""


class ScriptFailed(NamedTuple):
    """A script failed on the contents of its keys: an error of these keys, not of the server."""

    problem: str


REFUSALS = (ResponseError, AuthenticationError, AuthorizationError, GateRefuses)
"""The server is up and refuses: perhaps only a changed setting helps."""


class GateConnection:
    """A single connection, opened on demand. Every new connection first asks the server for its run id.

    A server that was restarted may hold old data under a new run id; commands are therefore built for a run id, and
    an answer counts only if the connection that gave it is the one whose run id they were built for.
    """

    def __init__(self, settings: RedisSettings) -> None:
        """Keep the settings; nothing connects yet."""
        arguments: dict[str, Any] = {
            "connection_class": Connection,
            **parse_url(settings.url.get_secret_value()),
            # One deadline covers the whole call. redis-py would set one for each send, with a task, and for each reply.
            "socket_timeout": None,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "redis_connect_func": self._greet,
            "decode_responses": True,
        }
        # The URL's scheme decides the class: TCP, TLS or a socket file.
        self._connection: Any = arguments.pop("connection_class")(**arguments)
        self._timeout_s = settings.timeout_s
        self._reconnect_s = settings.reconnect_s
        self._lock = asyncio.Lock()
        self._away_until = 0.0
        self._run_id = ""
        self._generation = 0
        self._failed = False
        self._scripts = {path.stem: path.read_text() for path in sorted(SCRIPTS.glob("*.lua"))}
        self._digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self._scripts.items()
        }

    @property
    def away(self) -> bool:
        """Whether the last failure is so recent that no call is tried yet."""
        return time.monotonic() < self._away_until

    def script(self, name: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Command:
        """Return the command that runs a script of `scripts/`."""
        return ("EVALSHA", self._digests[name], len(keys), *keys, *arguments)

    async def call(self, build: Callable[[str], list[Command]]) -> list[Any]:
        """Send the commands that `build` makes for the server's run id, in one round trip; one reply per command.

        Raises:
            GateAway: on any failure, error replies included. Only a ScriptFailed is returned as a reply.
        """
        if self.away:
            raise GateAway
        async with self._lock:
            connection = self._connection
            try:
                async with asyncio.timeout(self._timeout_s):
                    if not connection.is_connected:
                        await connection.connect()
                    generation = self._generation
                    commands = build(self._run_id)
                    packed = b"".join([hiredis.pack_command(command) for command in commands])
                    await connection.send_packed_command(packed, check_health=False)
                    replies = [await _reply(connection) for _ in commands]
            except Exception as error:
                # Whatever the server sent: the gate is bypassed, so that no request fails because of the gate.
                await self._drop(error)
                raise GateAway from error
            except BaseException:
                # Cancelled between sending and reading: the stream is out of step.
                await connection.disconnect(nowait=True)
                raise
            if generation != self._generation:
                raise GateAway
            if self._failed:
                log.info("gate.back")
                self._failed = False
            return replies

    async def close(self) -> None:
        """Disconnect."""
        async with self._lock:
            await self._connection.disconnect(nowait=True)

    async def _greet(self, connection: Any) -> None:
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        information = await connection.read_response()
        if isinstance(information, bytes):
            information = information.decode()
        for text in self._scripts.values():
            await connection.send_command("SCRIPT", "LOAD", text)
            await connection.read_response()
        self._run_id = next(
            (line.partition(":")[2].strip() for line in information.splitlines() if line.startswith("run_id:")), ""
        )
        if not self._run_id:
            # Only the run id distinguishes a restarted server with old data from the server before. If each connection
            # counted as a separate server instead, the processes would reload the gate after each other without end.
            raise GateRefuses("INFO names no run_id")
        self._generation += 1

    async def _drop(self, error: BaseException) -> None:
        if not self._failed:
            # A server that is up and refuses may need a changed setting, so its event has another name.
            event = "gate.refused" if isinstance(error, REFUSALS) else "gate.away"
            log.warning(event, error=type(error).__name__, problem=str(error)[:200], instead="Postgres alone decides")
        self._failed = True
        self._away_until = time.monotonic() + self._reconnect_s
        await self._connection.disconnect(nowait=True)


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        problem = str(error)
        # Redis names the script in each error that a script raises. An error of the server itself (OOM, MISCONF,
        # READONLY, NOPERM) begins with its code, or has another type.
        if type(error) is ResponseError and _IN_SCRIPT in problem and not _OF_SERVER.match(problem):
            return ScriptFailed(problem[:200])
        raise


_IN_SCRIPT = "user_script"
_OF_SERVER = re.compile(r"(?!WRONGTYPE )[A-Z]+ ")
