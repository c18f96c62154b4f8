"""The counters of the API."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from typing import TYPE_CHECKING

import structlog
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from flashsale.domain.gate import Admission
from flashsale.runtime.metrics import counted, page
from flashsale.runtime.shared_metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashsale.usecases.services import Services

log = structlog.get_logger(__name__)

REQUESTS = Counter("flashsale_http_requests", "Requests by route template and status.", ["route", "status"])

LATENCY_BOUNDS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class _Histogram(Histogram):
    """A histogram that takes many observations at once."""

    def add(self, counts: Iterable[float], total: float) -> None:
        """Add numbers of observations by bucket (the last is above all bounds), and the sum of the observations."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


LATENCY = _Histogram(
    "flashsale_http_request_seconds",
    "Time from request to the first byte of its answer, by route template.",
    ["route"],
    buckets=LATENCY_BOUNDS_S,
)
BUYS = Counter("flashsale_buys", "Buys by outcome: accepted, or the code of the problem.", ["outcome"])
GATE_ANSWERS = Counter(
    "flashsale_gate_answers", "Answers of the gate by kind; bypass: Postgres alone decided.", ["answer"]
)
GATE_BATCHES = Counter("flashsale_gate_batches", "Script calls that carried requests to the gate.")
GATE_BATCHED = Counter("flashsale_gate_batched_requests", "Requests that those script calls carried.")
GATE_LOADINGS = Counter("flashsale_gate_loadings", "Times the gate was loaded from Postgres.")
ACCEPT_BATCHES = Counter("flashsale_accept_batches", "Accept transactions.")
ACCEPT_BATCHED = Counter("flashsale_accept_batched_proposals", "Proposals in accept transactions.")
STREAMS = Gauge("flashsale_streams", "Open SSE streams.", ["kind"], multiprocess_mode="livesum")

# Counters exist from the start, with the value 0.
for outcome in ("accepted", "sold_out"):
    BUYS.labels(outcome)
for admission in Admission:
    GATE_ANSWERS.labels(admission)
for kind in ("stock", "order"):
    STREAMS.labels(kind)

NO_ROUTE = "none"

FLUSH_S = 1.0
"""Time between two flushes: the counters of other processes may be this old."""


class Meter:
    """Counts requests in this process' own memory; the flusher adds them to the metrics.

    A count in the files that the processes share takes several microseconds, a large part of a request's time.
    """

    def __init__(self) -> None:
        """Start from zero."""
        self._answers: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._latencies: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * (len(LATENCY_BOUNDS_S) + 2))
        self._buys: defaultdict[str, int] = defaultdict(int)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._answers[route, status] += 1
        latencies = self._latencies[route]
        latencies[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        latencies[-1] += seconds

    def count_buy(self, outcome: str) -> None:
        """Count the outcome of a buy."""
        self._buys[outcome] += 1

    def flush(self) -> None:
        """Add the counts to the metrics."""
        for (route, status), count in self._answers.items():
            REQUESTS.labels(route, str(status)).inc(count)
        for route, latencies in self._latencies.items():
            LATENCY.labels(route).add(latencies[:-1], latencies[-1])
        for outcome, count in self._buys.items():
            BUYS.labels(outcome).inc(count)
        self._answers.clear()
        self._latencies.clear()
        self._buys.clear()


class MetricsFlusher:
    """Adds the counts of the meter, the gate and the use cases to the metrics that all processes share."""

    def __init__(self, services: Services, meter: Meter) -> None:
        """Start from zero."""
        self._services = services
        self._meter = meter
        self._last: Tally[str] = Tally()

    async def run(self) -> None:
        """Flush once a second until cancelled, and once at the end."""
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                self()
        finally:
            self()

    def __call__(self) -> None:
        """Add the counts since the last call."""
        self._meter.flush()
        services = self._services
        now = Tally({f"answer:{name}": count for name, count in services.gate.answers.items()})
        now["gate_batches"], now["gate_batched"] = services.gate.batches
        now["accept_batches"] = services.buy.propose.lanes.batches
        now["accept_batched"] = services.buy.propose.lanes.items
        now["loadings"] = services.load_gate.loadings
        for name, count in (now - self._last).items():
            if name.startswith("answer:"):
                GATE_ANSWERS.labels(name.removeprefix("answer:")).inc(count)
            else:
                FLUSHED[name].inc(count)
        self._last = now


UseFlusher = NamedDependency[SkipValidation[MetricsFlusher]]
"""The type by which a route asks for the flusher."""

FLUSHED = {
    "gate_batches": GATE_BATCHES,
    "gate_batched": GATE_BATCHED,
    "accept_batches": ACCEPT_BATCHES,
    "accept_batched": ACCEPT_BATCHED,
    "loadings": GATE_LOADINGS,
}


async def scrape(flusher: MetricsFlusher, accept: str) -> tuple[bytes, str]:
    """Render the metrics of this machine's API processes; returns the page and its content type."""
    flusher()
    return await page(accept)


async def buys_so_far() -> dict[str, int]:
    """Return the buys that the API processes of this machine answered since they started, by outcome.

    The counts of other processes, and of this one, may be as old as their last flush.
    """
    return {labels["outcome"]: int(value) for labels, value in await counted(BUYS)}
