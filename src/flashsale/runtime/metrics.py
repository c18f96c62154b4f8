"""The metrics that every process measures of itself, and the page that shows them.

Processes that share the directory PROMETHEUS_MULTIPROC_DIR count together: each shows the metrics of all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections import deque
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psutil
import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from flashsale import __version__
from flashsale.runtime.outputs import dropped_lines
from flashsale.runtime.shared_metrics import Counter, Gauge, unshared_series

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from prometheus_client.metrics_core import Metric

log = structlog.get_logger(__name__)

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"

LAG_EVERY_S = 0.25
LAG_WINDOW_S = 15.0
"""Window of the maximum lag: longer than the time between two scrapes, so that no scrape misses a stall."""

POOL = Gauge("flashsale_pool_connections", "Connections to Postgres.", ["state"], multiprocess_mode="livesum")
LOOP_LAG = Gauge(
    "flashsale_event_loop_lag_seconds",
    f"Longest time by which a timer was late in the last {LAG_WINDOW_S:g} s.",
    ["role"],
    multiprocess_mode="liveall",
)
CPU = Counter("flashsale_cpu_seconds", "Processor time.", ["role"])
MEMORY = Gauge("flashsale_resident_bytes", "Resident memory.", ["role"], multiprocess_mode="liveall")
LISTENING = Gauge(
    "flashsale_listening", "1 if the LISTEN connection of every process stands.", ["role"], multiprocess_mode="livemin"
)
DROPPED = Counter("flashsale_log_lines_dropped", "Log lines that could not be written.", ["role"])
UNSHARED = Gauge(
    "flashsale_metrics_unshared",
    "Values that only the process which counts them can show: its directory of metrics is full or cannot be written.",
    ["role"],
    multiprocess_mode="livesum",
)
STALENESS = Gauge(
    "flashsale_live_staleness_seconds",
    "Seconds since the process that is furthest behind read the live values that its streams show.",
    ["role"],
    multiprocess_mode="livemax",
)


class Pooled(Protocol):
    """A pool of connections."""

    @property
    def size(self) -> tuple[int, int]:
        """Open and idle connections."""
        ...


class Live(Protocol):
    """Where live values come from."""

    @property
    def connected(self) -> bool:
        """Whether the listening connection is open."""
        ...

    @property
    def age_s(self) -> float:
        """Seconds since the values were last read."""
        ...


@asynccontextmanager
async def measured(role: str, database: Pooled, live: Live | None = None) -> AsyncIterator[None]:
    """Measure this process while the block runs; with `live`, also the age of its live values."""
    task = asyncio.create_task(_measure(role, database, live))
    try:
        yield
    finally:
        task.cancel()


async def _measure(role: str, database: Pooled, live: Live | None) -> None:
    loop = asyncio.get_running_loop()
    lags: deque[float] = deque([0.0], maxlen=round(LAG_WINDOW_S / LAG_EVERY_S))
    lag, cpu, memory = LOOP_LAG.labels(role), CPU.labels(role), MEMORY.labels(role)
    idle, busy = POOL.labels("idle"), POOL.labels("busy")
    dropped, unshared = DROPPED.labels(role), UNSHARED.labels(role)
    dropped_before = 0
    if values := unshared_series():
        log.warning("metrics.unshared", values=values, directory=os.environ.get(MULTIPROCESS))
    this_process = psutil.Process()
    spent_s = 0.0
    while True:
        open_connections, idle_connections = database.size
        idle.set(idle_connections)
        busy.set(open_connections - idle_connections)
        lag.set(max(lags))
        now_spent_s = time.process_time()
        cpu.inc(now_spent_s - spent_s)
        spent_s = now_spent_s
        memory.set(this_process.memory_info().rss)
        dropped_now = dropped_lines()
        dropped.inc(dropped_now - dropped_before)
        dropped_before = dropped_now
        unshared.set(unshared_series())
        if live is not None:
            LISTENING.labels(role).set(live.connected)
            STALENESS.labels(role).set(live.age_s)
        due_s = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        lags.append(max(0.0, loop.time() - due_s))


class _Read(Collector):
    """The metric families of one scrape."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def page(accept: str, families: Sequence[Metric] = ()) -> tuple[bytes, str]:
    """Render `families` and the metrics of this process, or of all processes that share its directory.

    Returns the page and its content type: OpenMetrics if the header `accept` asks for it, else Prometheus' text format.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except (ValueError, TypeError):
        # A version that is no number, for example.
        encode, content_type = choose_encoder("")

    def render() -> bytes:
        try:
            return encode(_registry(families, shared=MULTIPROCESS in os.environ and not unshared_series()))
        except Exception as error:  # noqa: BLE001 - another process may have left anything in the directory
            log.warning("metrics.unreadable", directory=os.environ.get(MULTIPROCESS), error=type(error).__name__)
            return encode(_registry(families, shared=False))

    # In a thread: with many processes, reading their files takes milliseconds.
    return await asyncio.to_thread(render), content_type


async def counted(counter: Counter) -> list[tuple[dict[str, str], float]]:
    """Return the values of one counter, with their labels: of this process, or of all that share its directory.

    It reads the files of counters alone, not those of histograms and gauges.
    """

    def read() -> Iterable[Metric]:
        if MULTIPROCESS in os.environ and not unshared_series():
            try:
                files = [str(path) for path in Path(os.environ[MULTIPROCESS]).glob("counter_*.db")]
                return MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call, no-any-return]
            except Exception as error:  # noqa: BLE001 - another process may have left anything in the directory
                log.warning("metrics.unreadable", directory=os.environ.get(MULTIPROCESS), error=type(error).__name__)
        return counter.collect()

    (name,) = {family.name for family in counter.describe()}
    return [
        (sample.labels, sample.value)
        for family in await asyncio.to_thread(read)
        if family.name == name
        for sample in family.samples
        if sample.name == f"{name}_total"
    ]


def _registry(families: Sequence[Metric], *, shared: bool) -> CollectorRegistry:
    """Return the metrics of all processes of the directory, or of this process if the directory cannot be read."""
    registry = CollectorRegistry()
    build = GaugeMetricFamily("flashsale_build_info", "Version.", labels=["version", "python"])
    build.add_metric([__version__, platform.python_version()], 1)
    registry.register(_Read([build, *families]))
    if shared:
        _forget_dead(Path(os.environ[MULTIPROCESS]))
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(REGISTRY)
    return registry


def _forget_dead(folder: Path) -> None:
    """Delete the gauges of processes that have ended; counters stay."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()
