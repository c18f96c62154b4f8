"""Reads what `flashsale doctor` wants to know of the gate's server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.domain.checkups import RedisFacts, Unreached

if TYPE_CHECKING:
    from flashsale.settings.groups import RedisSettings


async def inspect_redis(settings: RedisSettings) -> RedisFacts | Unreached:
    """Read the facts over one connection of its own."""
    timeout_s = max(settings.timeout_s, 2.0)
    client = Redis.from_url(
        settings.url.get_secret_value(),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        single_connection_client=True,
    )
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
                is_cluster=bool(told.get("cluster_enabled")),
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
