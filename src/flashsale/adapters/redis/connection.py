"""One connection to a server of the gate that knows which server process it talks to."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import ssl
import time
from collections.abc import Callable
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import hiredis
import structlog
from redis.asyncio.connection import SSLConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    MovedError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from flashsale.adapters.redis.addresses import Host, make_connection
from flashsale.settings.server_urls import CLUSTER, SENTINEL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from flashsale.settings.groups import RedisSettings

log = structlog.get_logger(__name__)

SCRIPTS = Path(__file__).parent / "scripts"

Command = tuple[Any, ...]


class Ask(NamedTuple):
    """A command about the keys of one hash tag."""

    tag: str
    build: Callable[[str], Command]
    """Makes the command for the run id of the server that gets it. Called again if another server must be asked."""


class Away(Enum):
    """The reply of a server that did not answer."""

    AWAY = "away"


AWAY: Final = Away.AWAY


class GateAway(Exception):
    """The server cannot be reached or did not answer in time; it may have executed what was sent."""


class GateRefuses(Exception):
    """The server is up and cannot serve as a gate."""


class ScriptFailed(NamedTuple):
    """A script failed on the contents of its keys: an error of these keys, not of the server."""

    problem: str


class Elsewhere(NamedTuple):
    """A node of a cluster does not serve the slot of a command's keys."""

    problem: str
    host: Host | None = None
    """The node that serves the slot now, if the answer names one."""


REFUSALS = (ResponseError, AuthenticationError, AuthorizationError, GateRefuses)
"""The server is up and refuses: perhaps only a changed setting helps."""

REFUSED_CONNECTIONS = (ssl.SSLError, PermissionError)
"""The same, before the first command: a certificate that one side does not take, a socket file of another user."""

OTHER_FORMS = {
    CLUSTER: "the server is a node of a cluster: write redis+cluster:// in FLASHSALE_REDIS__URL",
    SENTINEL: "the server is a Sentinel: write redis+sentinel:// in FLASHSALE_REDIS__URL",
}
"""What a server's mode says about a URL that names it as the only server."""


class GateConnection:
    """A single connection, opened on demand. Every new connection first asks the server for its run id.

    A server that was restarted may hold old data under a new run id; commands are therefore built for a run id, and
    an answer counts only if the connection that gave it is the one whose run id they were built for.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        settings: RedisSettings,
        *,
        host: Host | None = None,
        find: Callable[[], Awaitable[Host]] | None = None,
        in_cluster: bool = False,
    ) -> None:
        """Keep the settings; nothing connects yet.

        `arguments` are those of redis-py's connections. `find` names the server before each connection is opened.
        """
        self._connection = make_connection(arguments, host, greet=self._greet)
        self._find = find
        self._in_cluster = in_cluster
        self._timeout_s = settings.timeout_s
        self._reconnect_s = settings.reconnect_s
        self._lock = asyncio.Lock()
        self._away_until = 0.0
        self._run_id = ""
        self._generation = 0
        self._failed = False

    @property
    def away(self) -> bool:
        """Whether the last failure is so recent that no call is tried yet."""
        return time.monotonic() < self._away_until

    async def call(self, build: Callable[[str], list[Command]]) -> list[Any]:
        """Send the commands that `build` makes for the server's run id, in one round trip; one reply per command.

        Raises:
            GateAway: on any failure, error replies included. Only a ScriptFailed is returned as a reply, and an
                Elsewhere by a node of a cluster.
        """
        if self.away:
            raise GateAway
        async with self._lock:
            connection = self._connection
            try:
                async with asyncio.timeout(self._timeout_s):
                    if not connection.is_connected:
                        if self._find is not None:
                            connection.host, connection.port = await self._find()
                        await connection.connect()
                    generation = self._generation
                    commands = build(self._run_id)
                    packed = b"".join([hiredis.pack_command(command) for command in commands])
                    await connection.send_packed_command(packed, check_health=False)
                    replies = [await self._reply(connection) for _ in commands]
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
        """Disconnect and stay away: a call that comes later must not open what nobody closes."""
        self._away_until = math.inf
        await self._leave()

    async def _leave(self) -> None:
        async with self._lock:
            await self._connection.disconnect(nowait=True)

    async def leave_other_than(self, host: Host) -> None:
        """Disconnect, unless connected to this server."""
        connected = Host(self._connection.host, self._connection.port)
        if connected != host and self._connection.is_connected:
            log.warning("gate.moved", was=f"{connected.name}:{connected.port}", to=f"{host.name}:{host.port}")
            await self._leave()

    async def _greet(self, connection: Any) -> None:
        try:
            await connection.on_connect()
            await connection.send_command("INFO", "server")
            information = await connection.read_response()
        except RedisConnectionError as error:
            # TLS 1.3: the server verifies the client's certificate after the handshake, and closes without a word.
            if type(error) is RedisConnectionError and isinstance(connection, SSLConnection):
                raise GateRefuses(f"{error} Does it ask for a certificate (ssl_certfile, ssl_keyfile)?") from error
            raise
        if isinstance(information, bytes):
            information = information.decode()
        facts: dict[str, str] = dict(line.partition(":")[::2] for line in information.splitlines())
        # Redis' name of it, and Valkey's.
        mode = facts.get("redis_mode", facts.get("server_mode", "")).strip()
        if mode in OTHER_FORMS and not (self._in_cluster and mode == CLUSTER):
            raise GateRefuses(OTHER_FORMS[mode])
        for text, _ in scripts().values():
            await connection.send_command("SCRIPT", "LOAD", text)
            await connection.read_response()
        self._run_id = facts.get("run_id", "").strip()
        if not self._run_id:
            # Only the run id distinguishes a restarted server with old data from the server before. If each connection
            # counted as a separate server instead, the processes would reload the gate after each other without end.
            raise GateRefuses("INFO names no run_id")
        self._generation += 1

    async def _drop(self, error: BaseException) -> None:
        if not self._failed:
            # A server that is up and refuses may need a changed setting, so its event has another name.
            refuses = isinstance(error, REFUSALS) or isinstance(error.__context__, REFUSED_CONNECTIONS)
            log.warning(
                "gate.refused" if refuses else "gate.away",
                error=type(error).__name__,
                problem=str(error)[:200],
                instead="Postgres alone decides",
            )
        self._failed = True
        self._away_until = max(self._away_until, time.monotonic() + self._reconnect_s)
        await self._connection.disconnect(nowait=True)

    async def _reply(self, connection: Any) -> Any:
        try:
            return await connection.read_response()
        except MovedError as error:
            if not self._in_cluster:
                raise
            # A node that does not know its own name leaves the other's name out: the host is the same.
            return Elsewhere(str(error), Host(error.host or connection.host, error.port))
        except (AskError, TryAgainError, ClusterDownError) as error:
            # The slot is on its way to another node, or the cluster has no node for it.
            if not self._in_cluster:
                raise
            return Elsewhere(f"{type(error).__name__}: {error}")
        except ResponseError as error:
            problem = str(error)
            # Redis names the script in each error that a script raises. An error of the server itself (OOM, MISCONF,
            # READONLY, NOPERM) begins with its code, or has another type.
            if type(error) is ResponseError and _IN_SCRIPT in problem and not _OF_SERVER.match(problem):
                return ScriptFailed(problem[:200])
            raise


@cache
def scripts() -> Mapping[str, tuple[str, str]]:
    """Return the scripts of `scripts/` and their digests, by name."""
    texts = {path.stem: path.read_text() for path in sorted(SCRIPTS.glob("*.lua"))}
    return {
        name: (text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()) for name, text in texts.items()
    }


def run_script(name: str, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Command:
    """Return the command that runs a script of `scripts/`."""
    return ("EVALSHA", scripts()[name][1], len(keys), *keys, *arguments)


_IN_SCRIPT = "user_script"
_OF_SERVER = re.compile(r"(?!WRONGTYPE )[A-Z]+ ")
