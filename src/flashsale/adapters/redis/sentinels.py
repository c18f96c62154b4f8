"""Which server is the primary: what most Sentinels say."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from flashsale.adapters.redis.addresses import Host, ask_once
from flashsale.adapters.redis.connection import GateAway, GateRefuses

if TYPE_CHECKING:
    from flashsale.adapters.redis.addresses import Address


class Sentinels:
    """All Sentinels are asked at the same time.

    While the network is split, the Sentinels on the side of the old primary still name it. They are fewer than half,
    because only more than half can appoint another primary.
    """

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        """Keep where they are; each has `timeout_s` to answer."""
        self._address = address
        self._timeout_s = timeout_s

    async def primary(self) -> Host:
        """Return the primary that more than half of the Sentinels name, or the most of those that answer.

        Raises:
            GateAway: if none answers.
            GateRefuses: if none knows the service.
        """
        hosts = self._address.hosts
        asked = [asyncio.create_task(self._ask(host)) for host in hosts]
        votes: Counter[Host] = Counter()
        unknown, problem = 0, ""
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    found = await answer
                except (RedisError, OSError, TimeoutError, ValueError, TypeError, IndexError) as error:
                    # The last three: what answers is no Sentinel. The others still have their say.
                    problem = f"{type(error).__name__}: {error}"
                    continue
                if found is None:
                    unknown += 1
                    continue
                votes[found] += 1
                if votes[found] > len(hosts) // 2:
                    return found
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if votes:
            return votes.most_common(1)[0][0]
        if unknown:
            raise GateRefuses(f"no Sentinel knows a primary named {self._address.service}")
        raise GateAway(f"no Sentinel answers: {problem}")

    async def _ask(self, host: Host) -> Host | None:
        async with asyncio.timeout(self._timeout_s):
            found = await ask_once(
                self._address.of_sentinels, host, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service
            )
        return None if found is None else Host(found[0], int(found[1]))
