"""What an approach costs: processor time and memory of its processes and servers, read while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

EVERY_S = 0.5


@dataclass(slots=True)
class Used:
    """What the processes of an approach used, by role."""

    cpu_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Processor seconds, also of processes that ended meanwhile."""
    pss_bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """The most that the processes of a role had at once (proportional set size)."""
    processes: int = 0
    """The most processes at once, those of the servers not counted."""
    samples: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)
    """Seconds since the beginning, and what `look` gave: queue depths, stock, orders by status."""


async def watch(
    pids: Callable[[], Mapping[str, Sequence[int]]], look: Callable[[], Awaitable[Mapping[str, int]]]
) -> Used:
    """Read until cancelled; returns what was used up to then. `pids` gives the processes of each role."""
    used, began_s = Used(), time.monotonic()
    spent: dict[int, float] = {}
    before = {pid: _cpu_s(pid) for _, some in pids().items() for pid in _families(some)}
    try:
        while True:
            now = pids()
            count = 0
            for role, some in now.items():
                family = _families(some)
                count += 0 if role in {"postgres", "redis"} else len(family)
                for pid in family:
                    cpu_s = _cpu_s(pid)
                    used.cpu_s[role] += max(0.0, cpu_s - spent.get(pid, before.get(pid, 0.0)))
                    spent[pid] = max(cpu_s, spent.get(pid, 0.0))
                used.pss_bytes[role] = max(used.pss_bytes[role], sum(_pss_bytes(pid) for pid in family))
            used.processes = max(used.processes, count)
            used.samples.append((time.monotonic() - began_s, await look()))
            await asyncio.sleep(EVERY_S)
    except asyncio.CancelledError:
        return used


def _families(pids: Sequence[int]) -> list[int]:
    found = list(pids)
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return found


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_full_info().pss)
    return 0
