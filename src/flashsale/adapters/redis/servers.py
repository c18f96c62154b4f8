"""The gate's servers: one, one of several that Sentinels watch, or the nodes of a cluster."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from flashsale.adapters.redis.addresses import read_address
from flashsale.adapters.redis.cluster import Cluster
from flashsale.adapters.redis.connection import AWAY, GateAway, GateConnection, GateRefuses
from flashsale.adapters.redis.sentinels import Sentinels
from flashsale.settings.server_urls import CLUSTER, SENTINEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.adapters.redis.connection import Ask
    from flashsale.settings.groups import RedisSettings

log = structlog.get_logger(__name__)

LOOK_S = 1.0
"""How often Sentinels are asked whether the connected server is still the primary."""


class Servers(Protocol):
    """Where the gate's keys are."""

    joins: bool
    """Whether one command may name keys of different tags."""

    def away(self, tag: str) -> bool:
        """Whether the last failure of a tag's server is so recent that no call is tried yet."""
        ...

    async def send(self, asks: Sequence[Ask]) -> list[Any]:
        """Send commands in one round trip per server; one reply each, AWAY where no server answered.

        A reply may be a ScriptFailed.
        """
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


class OneServer:
    """One server: the one that the URL names, or the one that Sentinels name."""

    joins = True

    def __init__(self, connection: GateConnection, sentinels: Sentinels | None = None) -> None:
        """Wrap the connection."""
        self.connection = connection
        self._sentinels = sentinels
        self._look_at_s = time.monotonic() + LOOK_S
        self._looking: asyncio.Task[None] | None = None

    def away(self, tag: str) -> bool:  # noqa: ARG002 - all tags are there
        """Whether the last failure is so recent that no call is tried yet."""
        return self.connection.away

    async def send(self, asks: Sequence[Ask]) -> list[Any]:
        """Send the commands in one round trip."""
        if self._sentinels is not None and time.monotonic() >= self._look_at_s:
            self._look_at_s = time.monotonic() + LOOK_S
            self._looking = asyncio.create_task(self._look(self._sentinels))
        try:
            return await self.connection.call(lambda run_id: [build(run_id) for _, build in asks])
        except GateAway:
            return [AWAY] * len(asks)

    async def close(self) -> None:
        """Disconnect."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self.connection.close()

    async def _look(self, sentinels: Sentinels) -> None:
        """Leave a server that is no primary any more.

        It may still answer, because the network is split or nobody told it. The processes that use it and those that
        use the new primary would reload the gate after each other.
        """
        try:
            primary = await sentinels.primary()
        except (GateAway, GateRefuses) as error:
            log.warning("gate.unwatched", problem=str(error)[:200])
        else:
            await self.connection.leave_other_than(primary)


def open_servers(settings: RedisSettings) -> Servers:
    """Make the connections that the URL asks for; nothing connects before the first call."""
    address = read_address(settings.url.get_secret_value())
    if address.kind == CLUSTER:
        return Cluster(address, settings)
    if address.kind == SENTINEL:
        sentinels = Sentinels(address, timeout_s=settings.timeout_s / 2)
        return OneServer(GateConnection(address.arguments, settings, find=sentinels.primary), sentinels)
    host = next(iter(address.hosts), None)
    return OneServer(GateConnection(address.arguments, settings, host=host))
