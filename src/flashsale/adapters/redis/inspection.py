"""Reads what `flashsale doctor` wants to know of the gate's servers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError

from flashsale.adapters.redis.addresses import ask_once, read_address
from flashsale.adapters.redis.cluster import read_slots
from flashsale.adapters.redis.connection import GateAway, GateRefuses
from flashsale.adapters.redis.sentinels import Sentinels
from flashsale.domain.checkups import RedisFacts, Unreached
from flashsale.settings.server_urls import CLUSTER, SENTINEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.adapters.redis.addresses import Address, Host
    from flashsale.settings.groups import RedisSettings

TIMEOUT_S = 2.0
"""A person who asks waits longer than a buyer."""


async def inspect_redis(settings: RedisSettings) -> Mapping[str, RedisFacts | Unreached]:
    """Read the facts of each server with keys of the gate, by its name; the name of the only one is empty."""
    address = read_address(settings.url.get_secret_value())
    timeout_s = max(settings.timeout_s, TIMEOUT_S)
    try:
        async with asyncio.timeout(timeout_s * 2):
            hosts = await _hosts(address, timeout_s)
    except (RedisError, OSError, TimeoutError, GateAway, GateRefuses, ValueError) as error:
        return {"": Unreached(problem=f"{type(error).__name__}: {error}".partition("\n")[0])}
    if len(hosts) == 1 and address.kind != CLUSTER:
        return {"": await _inspect(address, hosts[0], timeout_s)}
    return {f"{host.name}:{host.port}": await _inspect(address, host, timeout_s) for host in hosts if host is not None}


async def _hosts(address: Address, timeout_s: float) -> Sequence[Host | None]:
    """Return the servers; None for a socket file."""
    if address.kind == SENTINEL:
        return [await Sentinels(address, timeout_s=timeout_s).primary()]
    if address.kind != CLUSTER:
        return address.hosts or [None]
    # A node that accepts the connection and says nothing leaves time for the next.
    share_s = timeout_s / len(address.hosts)
    for host in address.hosts[:-1]:
        try:
            return await _primaries(address, host, share_s)
        except (RedisError, OSError, ValueError):
            continue
    return await _primaries(address, address.hosts[-1], share_s)


async def _primaries(address: Address, host: Host, timeout_s: float) -> Sequence[Host]:
    async with asyncio.timeout(timeout_s):
        slots = read_slots(await ask_once(address.arguments, host, "CLUSTER", "SLOTS"), host)
    return sorted(set(slots.values()))


async def _inspect(address: Address, host: Host | None, timeout_s: float) -> RedisFacts | Unreached:
    arguments = {**address.arguments, "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    if host is not None:
        arguments |= {"host": host.name, "port": host.port}
    client = Redis.from_pool(ConnectionPool(**arguments))
    try:
        async with client:
            began_s = time.time()
            seconds, microseconds = await client.time()
            middle_s = (began_s + time.time()) / 2
            told: dict[str, Any] = await client.info("all")
            return RedisFacts(
                version=str(told["redis_version"]),
                clock_ahead_s=seconds + microseconds / 1e6 - middle_s,
                is_replica=told["role"] != "master",
                is_foreign_node=bool(told.get("cluster_enabled")) and address.kind != CLUSTER,
                maxmemory=int(told["maxmemory"]),
                used_memory=int(told["used_memory"]),
                eviction=str(told["maxmemory_policy"]),
                writes_log=bool(told["aof_enabled"]),
                writes_snapshots=await _writes_snapshots(client),
            )
    except (RedisError, OSError, TimeoutError) as error:
        return Unreached(problem=f"{type(error).__name__}: {error}".partition("\n")[0])
    except KeyError as error:
        return Unreached(problem=f"INFO does not name {error}.")


async def _writes_snapshots(client: Redis) -> bool:
    """Say whether the server writes snapshots; False if it does not let this user ask."""
    try:
        found = await client.config_get("save")
    except RedisError:
        return False
    return bool(found.get("save"))
