"""What an approach uses, read while it runs: processor time, memory, the servers' figures, queues and orders."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import psutil
from redis.exceptions import RedisError

from analysis.results import Resources

if TYPE_CHECKING:
    from analysis.stage import Look, Running

LOOK_S = 0.5
"""How often orders and queues are read."""
READ_S = 2.0
"""How often the processes are read: the memory of a database server takes some milliseconds."""
GAUGES = frozenset({"connections", "memory_bytes"})
"""Figures of which the most counts; of the others the sum of the increases."""
APART = frozenset({"postgres", "redis", "simulator"})
"""Roles that are not counted among the processes of an approach."""


class Watch:
    """Reads from `begin` until `end`."""

    def __init__(self, running: Running) -> None:
        """Nothing is read yet."""
        self._running = running
        self._began_s = time.monotonic()
        self._cpu: dict[int, tuple[str, float, float]] = {}
        """Processor seconds of each root process: role, at the first and at the last reading."""
        self._pss: dict[str, int] = defaultdict(int)
        self._processes = 0
        self._figures: tuple[dict[str, int], dict[str, int]] = (defaultdict(int), defaultdict(int))
        self._before: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self.looks: list[tuple[float, Look]] = []
        """Unix time, and what was seen."""
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Begin to read."""
        self._began_s = time.monotonic()
        self._read(first=True)
        await self._count()
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        """Read no more. The reading is not cancelled: it may be in the middle of a statement."""
        self._ending.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def end(self) -> Resources:
        """Read once more; returns what was used since the beginning."""
        await self.stop()
        self._read()
        await self._count()
        await self._look()
        cpu_s: dict[str, float] = defaultdict(float)
        for role, first_s, last_s in self._cpu.values():
            cpu_s[role] += last_s - first_s
        return Resources(
            wall_s=round(time.monotonic() - self._began_s, 2),
            cpu_s={role: round(seconds, 2) for role, seconds in cpu_s.items()},
            pss_bytes=dict(self._pss),
            processes=self._processes,
            postgres=dict(self._figures[0]),
            redis=dict(self._figures[1]),
        )

    async def _go_on(self) -> None:
        read_s = time.monotonic()
        while not self._ending.is_set():
            await self._look()
            if time.monotonic() > read_s + READ_S:
                read_s = time.monotonic()
                self._read()
                await self._count()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._ending.wait()

    async def _look(self) -> None:
        # Redis is killed in some runs.
        with contextlib.suppress(RedisError, OSError):
            self.looks.append((time.time(), await self._running.look()))

    async def _count(self) -> None:
        now = await self._running.figures()
        for total, before, counted in zip(self._figures, self._before, now, strict=True):
            for name, value in counted.items():
                if name in GAUGES:
                    total[name] = max(total[name], value)
                else:
                    # A server that was started again counts from 0.
                    known = before.get(name, value)
                    total[name] += value - known if value >= known else value
            before.update(counted)

    def _read(self, *, first: bool = False) -> None:
        families = _families()
        processes = 0
        for role, roots in self._running.roots().items():
            pss = 0
            for root in roots:
                family = [root, *_descendants(families, root)]
                processes += 0 if role in APART else len(family)
                # Of a descendant that has ended, its parent has the time.
                cpu_s = sum(_cpu_s(pid) for pid in family)
                _, first_s, last_s = self._cpu.get(root, (role, cpu_s if first else 0.0, 0.0))
                self._cpu[root] = (role, first_s, max(cpu_s, last_s))
                pss += sum(_pss_bytes(pid) for pid in family)
            self._pss[role] = max(self._pss[role], pss)
        self._processes = max(self._processes, processes)


def _families() -> dict[int, list[int]]:
    """Return the children of each process of the machine."""
    children: dict[int, list[int]] = defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        children[process.info["ppid"]].append(process.pid)
    return children


def _descendants(families: dict[int, list[int]], root: int) -> list[int]:
    found = list(families.get(root, ()))
    for pid in found:
        found += families.get(pid, ())
    return found


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_full_info().pss)
    return 0
