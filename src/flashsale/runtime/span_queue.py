"""Spans on their way to the collector: a bounded queue and a thread of its own, for which nothing ever waits."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

import structlog

from flashsale.runtime.outages import Outage
from flashsale.runtime.shared_metrics import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flashsale.domain.traces import Span

log = structlog.get_logger(__name__)

EVERY_S = 1.0
"""Longest time between two deliveries: one request carries what ended meanwhile. A half-full queue waits less."""

BATCH_MAX = 512
"""Most spans of one request to the collector."""

CLOSE_S = 1.0
"""How long a process that ends waits for its last delivery."""

SPANS = Counter(
    "flashsale_spans",
    "Spans. sent: the collector took them. dropped: the queue was full. lost: the collector did not take them.",
    ["outcome"],
)


class SpanQueue:
    """The queue. `send` delivers spans and returns whether the collector took them; it may take long."""

    def __init__(self, send: Callable[[Sequence[Span]], bool], *, spans_max: int) -> None:
        """Hold at most `spans_max` spans."""
        self._send = send
        self._spans_max = spans_max
        self._waiting: deque[Span] = deque()
        self._dropped = 0
        self._due = threading.Event()
        self._closing = False
        self._outage = Outage(log, back="traces.sent_again")
        # A daemon: the process may end while a collector does not answer.
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        for outcome in ("sent", "dropped", "lost"):
            SPANS.labels(outcome)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def put(self, spans: list[Span]) -> None:
        """Take the spans of one piece of work, or drop all of them."""
        if len(self._waiting) + len(spans) > self._spans_max:
            self._dropped += len(spans)
        else:
            self._waiting.extend(spans)
            if len(self._waiting) * 2 >= self._spans_max:
                self._due.set()

    async def close(self) -> None:
        """Deliver what waits, for at most CLOSE_S."""
        self._closing = True
        self._due.set()
        await asyncio.to_thread(self._thread.join, CLOSE_S)

    def _work(self) -> None:
        ending, told = False, 0
        while not ending:
            self._due.wait(EVERY_S)
            self._due.clear()
            ending = self._closing
            self._deliver()
            dropped = self._dropped
            SPANS.labels("dropped").inc(dropped - told)
            told = dropped
        SPANS.labels("lost").inc(len(self._waiting))

    def _deliver(self) -> None:
        while self._waiting:
            spans = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
            try:
                taken, problem = self._send(spans), "not taken"
            except Exception as error:  # noqa: BLE001 - whatever the exporter raises, the process goes on
                taken, problem = False, type(error).__name__
            SPANS.labels("sent" if taken else "lost").inc(len(spans))
            if not taken:
                self._outage.tell("traces.not_sent", problem=problem)
                return
            self._outage.over()
