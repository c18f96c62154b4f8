"""The nodes of a cluster: one connection for each, and the map of slots.

All keys of a product have the same hash tag, so they are in one slot, and every command is about one slot. A slot
that is between two nodes, or has none, is bypassed: Postgres decides. A slot that moved to another node, or whose
replica was promoted, is not loaded there, because the run id is another: the gate is loaded from Postgres.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import structlog
from redis.crc import key_slot
from redis.exceptions import RedisError

from flashsale.adapters.redis.addresses import Host, ask_once
from flashsale.adapters.redis.connection import AWAY, Elsewhere, GateAway, GateConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.adapters.redis.addresses import Address
    from flashsale.adapters.redis.connection import Ask
    from flashsale.settings.groups import RedisSettings

log = structlog.get_logger(__name__)

NODES_MAX = 1000
"""Most nodes of a cluster, as Redis says; more were not written by a node."""

TAGS_MAX = 10_000


class Cluster:
    """Implements `servers.Servers`."""

    joins = False

    def __init__(self, address: Address, settings: RedisSettings) -> None:
        """Keep where some nodes are; the first call reads the map."""
        self._address = address
        self._settings = settings
        self._nodes: dict[Host, GateConnection] = {}
        self._slots: dict[int, Host] = {}
        self._bypassed: dict[int, float] = {}
        """Slots that no node served when they were last asked for, and until when none is asked again."""
        self._reading: asyncio.Task[None] | None = None
        self._read_again_s = float("-inf")
        self._unread = False
        """Whether the last reading of the map failed."""

    def away(self, tag: str) -> bool:
        """Whether the last failure of the tag's slot or node is so recent that no call is tried yet."""
        now_s = time.monotonic()
        if not self._slots:
            return self._unread and now_s < self._read_again_s
        slot = slot_of(tag)
        if slot in self._bypassed and now_s < self._bypassed[slot]:
            return True
        node = self._nodes.get(self._slots[slot]) if slot in self._slots else None
        return node is not None and node.away

    async def send(self, asks: Sequence[Ask]) -> list[Any]:
        """Send each command to the node of its slot, all nodes at the same time; AWAY where none answered."""
        if not self._slots and (reading := self._read_map_soon()) is not None:
            await asyncio.wait([reading], timeout=self._settings.timeout_s)
        replies: list[Any] = [AWAY] * len(asks)
        await self._send(asks, range(len(asks)), replies)
        moved = [i for i, reply in enumerate(replies) if isinstance(reply, Elsewhere) and reply.host is not None]
        for i in moved:
            self._slots[slot_of(asks[i].tag)] = replies[i].host
        if moved:
            await self._send(asks, moved, replies)
        for one, reply in zip(asks, replies, strict=True):
            if self._slots and slot_of(one.tag) not in self._slots and not self.away(one.tag):
                self._bypass(slot_of(one.tag), "the map names no node for the slot")
            elif isinstance(reply, Elsewhere):
                self._bypass(slot_of(one.tag), reply.problem)
            elif self._bypassed and reply is not AWAY:
                self._bypassed.pop(slot_of(one.tag), None)
        replies = [AWAY if isinstance(reply, Elsewhere) else reply for reply in replies]
        if moved or AWAY in replies:
            self._read_map_soon()
        return replies

    async def close(self) -> None:
        """Disconnect from all nodes."""
        if self._reading is not None:
            self._reading.cancel()
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    async def _send(self, asks: Sequence[Ask], which: Sequence[int], replies: list[Any]) -> None:
        """Send some of the commands, and put the answers into `replies`."""
        by_host: defaultdict[Host, list[int]] = defaultdict(list)
        for i in which:
            slot = slot_of(asks[i].tag)
            if slot in self._slots and not self.away(asks[i].tag):
                by_host[self._slots[slot]].append(i)

        async def send(host: Host, mine: list[int]) -> None:
            try:
                answers = await self._node(host).call(lambda run_id: [asks[i].build(run_id) for i in mine])
            except GateAway:
                return
            for i, answer in zip(mine, answers, strict=True):
                replies[i] = answer

        await asyncio.gather(*(send(host, mine) for host, mine in by_host.items()))

    def _node(self, host: Host) -> GateConnection:
        if host not in self._nodes:
            self._nodes[host] = GateConnection(self._address.arguments, self._settings, host=host, in_cluster=True)
        return self._nodes[host]

    def _bypass(self, slot: int, problem: str) -> None:
        if slot not in self._bypassed:
            log.warning("gate.refused", slot=slot, problem=problem[:200], instead="Postgres alone decides")
        self._bypassed[slot] = time.monotonic() + self._settings.reconnect_s

    def _read_map_soon(self) -> asyncio.Task[None] | None:
        """Read the map in the background, unless it was read a moment ago; returns the reading that runs."""
        if self._reading is None and time.monotonic() >= self._read_again_s:
            self._read_again_s = time.monotonic() + self._settings.reconnect_s
            self._reading = asyncio.create_task(self._read_map())
            self._reading.add_done_callback(self._forget_reading)
        return self._reading

    def _forget_reading(self, _: object) -> None:
        self._reading = None

    async def _read_map(self) -> None:
        """Ask one node after another for the map of slots; the old map stays if none answers."""
        known = {*self._address.hosts, *self._slots.values()}
        # Nodes that serve first; in another order each time, because a node may be cut off and know an old map.
        failing = {host for host, node in self._nodes.items() if node.away}
        hosts = sorted(random.sample(sorted(known), len(known)), key=lambda host: host in failing)
        problem = ""
        for host in hosts:
            try:
                async with asyncio.timeout(self._settings.timeout_s / 2):
                    found = await ask_once(self._address.arguments, host, "CLUSTER", "SLOTS")
                self._slots = read_slots(found, host)
            except (RedisError, OSError, TimeoutError, ValueError, TypeError, IndexError) as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                break
        else:
            if not self._unread:
                log.warning("gate.away", error="no map", problem=problem[:200], instead="Postgres alone decides")
            self._unread = True
            return
        self._unread = False
        for host in self._nodes.keys() - set(self._slots.values()):
            await self._nodes.pop(host).close()


def read_slots(found: Any, asked: Host) -> dict[int, Host]:
    """Read an answer to CLUSTER SLOTS: `[[first, last, [name, port, ...], replica ...], ...]`."""
    if len(found) > NODES_MAX:
        raise ValueError("CLUSTER SLOTS names too many nodes")
    slots: dict[int, Host] = {}
    for first, last, primary, *_ in found:
        # A node that does not know its own name leaves it out.
        host = Host(primary[0] or asked.name, int(primary[1]))
        slots |= dict.fromkeys(range(first, last + 1), host)
    if not slots:
        raise ValueError("CLUSTER SLOTS names no slot")
    return slots


@lru_cache(maxsize=TAGS_MAX)
def slot_of(tag: str) -> int:
    """Return the slot of all keys with a hash tag."""
    return key_slot(tag.encode())
