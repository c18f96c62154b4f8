"""When a payment provider may be called: a budget of calls per second, and a circuit breaker while it is away.

The breaker is our own. The breakers on PyPI (purgatory, pybreaker, aiobreaker) wrap a call that raises. Here a failure
is a returned value, a job must know the wait before it opens an attempt, and only one call may test the provider.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.errors import Unavailable
from flashsale.runtime.shared_metrics import Gauge
from flashsale.usecases.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

log = structlog.get_logger(__name__)

BATCH_MAX = 256
QUEUE_MAX = 10_000
TESTED_S = 20.0
"""How long the call that tests the provider may take."""

BEGIN = "begin"
"""The operation whose turns say when a payment may begin; it is no call."""

PROBE_S = 1.0
"""How long other calls wait while one call tests the provider."""

OPEN = Gauge(
    "flashsale_payment_breaker_open",
    "Processes that do not ask the payment provider because it is away.",
    multiprocess_mode="livesum",
)


class Breaker:
    """Opens after consecutive failures. Then one call at a time tests the provider, after pauses that double."""

    def __init__(
        self, *, failures: int, pause_s: float, pause_max_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start closed."""
        self._failures_max = failures
        self._first_pause_s = self._pause_s = pause_s
        self._pause_max_s = pause_max_s
        self._clock = clock
        self._failures = 0
        self._until_s: float | None = None
        """The end of the pause, after which one call may test the provider; None while the breaker is closed."""
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether the provider counts as away."""
        return self._until_s is not None

    def wait_s(self) -> float:
        """Return how long no call may be made; 0 once the pause is over."""
        return 0.0 if self._until_s is None else max(0.0, self._until_s - self._clock())

    def enter(self) -> float:
        """Begin a call. Returns 0, or how long to wait. While open, one call passes after each pause."""
        wait_s = self.wait_s()
        if self._until_s is not None and not wait_s:
            self._until_s, self._trying = self._clock() + PROBE_S, True
        return wait_s

    def answered(self) -> bool:
        """Record that the provider answered; returns whether that closed the breaker."""
        was_open = self._until_s is not None
        if was_open:
            log.warning("payment.breaker_closed")
            OPEN.dec()
        self._failures, self._until_s, self._pause_s, self._trying = 0, None, self._first_pause_s, False
        return was_open

    def failed(self) -> float | None:
        """Record that the provider did not answer; returns the pause that begins with it, if one does."""
        self._failures += 1
        if self._until_s is None:
            if self._failures < self._failures_max:
                return None
            log.error("payment.breaker_opened", failures=self._failures)
            OPEN.inc()
        elif not self._trying:
            # This call began before the breaker opened.
            return None
        self._trying = False
        pause_s = self._pause_s
        self._until_s = self._clock() + pause_s
        self._pause_s = min(2 * pause_s, self._pause_max_s)
        return pause_s


class Ledger(Protocol):
    """The reserved instants of all processes, in Postgres."""

    async def take(
        self, provider: str, operation: str, count: int, *, interval_s: float, horizon_s: float
    ) -> tuple[int, float]:
        """Reserve instants; returns their number, and the wait for the first (or, if none, for the next free one)."""
        ...

    async def hold(self, provider: str, operation: str, pause_s: float) -> None:
        """Reserve every instant of an operation for a while, so that no call is made."""
        ...

    async def rest(self, provider: str, pause_s: float) -> None:
        """Record that a provider is away, for a while."""
        ...

    async def back(self, provider: str) -> None:
        """Record that a provider answers again."""
        ...

    async def put_off(self, orders: Sequence[tuple[UUID, float]]) -> None:
        """Postpone orders without opening an attempt."""
        ...


class Turns:
    """The breaker and the budget of one provider. Concurrent calls share a reservation."""

    def __init__(self, provider: str, ledger: Ledger, breaker: Breaker, *, rate_per_s: float, wait_s: float) -> None:
        """Allow `rate_per_s` calls of each operation (0: no limit); a call waits at most `wait_s` for its turn."""
        self._provider = provider
        self._ledger = ledger
        self.breaker = breaker
        self._rate_per_s = rate_per_s
        self._wait_s = wait_s
        self._queues: dict[str, Batcher[None, float | None]] = {}
        self._later_at_s = 0.0
        self._putting_off: Batcher[tuple[UUID, float], None] = Batcher(
            self._put_off, batch_max=BATCH_MAX, queue_max=QUEUE_MAX
        )

    async def admit(self) -> float:
        """Wait for a turn to begin a payment. Returns 0, or how long to postpone its order. Call this before any write.

        All processes together begin no more payments than the budget of one call allows, so that the calls of a payment
        that was begun seldom wait.
        """
        if (wait_s := self.breaker.wait_s()) > 0:
            return wait_s * (1 + random.random() / 2)  # noqa: S311 - spreads them
        if not self._rate_per_s or await self._has_turn(BEGIN):
            return 0.0
        # Further payments of this process get successive times.
        now_s = time.monotonic()
        self._later_at_s = max(self._later_at_s, now_s + self._wait_s) + 1 / self._rate_per_s
        return self._later_at_s - now_s

    async def put_off(self, order_id: UUID, pause_s: float) -> None:
        """Postpone an order without opening an attempt."""
        await self._putting_off.submit((order_id, pause_s))

    async def take(self, operation: str) -> float | None:
        """Wait for a turn to make one call. Returns None: make the call now; else the seconds until a new try."""
        if (wait_s := self.breaker.enter()) > 0:
            return wait_s
        return None if not self._rate_per_s or await self._has_turn(operation) else self._wait_s

    async def _has_turn(self, operation: str) -> bool:
        """Wait for a turn; False if there is none within the longest wait."""
        queue = self._queues.get(operation)
        if queue is None:
            queue = self._queues[operation] = Batcher(
                lambda items: self._reserve(operation, len(items)), batch_max=BATCH_MAX, queue_max=QUEUE_MAX
            )
        try:
            turn_s = await queue.submit(None)
        except Unavailable:
            return False
        if turn_s is None:
            return False
        await asyncio.sleep(turn_s - time.monotonic())
        return True

    async def answered(self) -> None:
        """Record that the provider answered."""
        if self.breaker.answered():
            await self._tell(self._ledger.back(self._provider))

    async def failed(self) -> None:
        """Record that the provider did not answer."""
        if (pause_s := self.breaker.failed()) is not None:
            # Until the call that tests the provider has ended too.
            await self._tell(self._ledger.rest(self._provider, pause_s + TESTED_S))

    async def _tell(self, telling: Awaitable[None]) -> None:
        """Let the other processes know, for readiness and status; the payment does not depend on it."""
        try:
            await telling
        except Unavailable:
            log.info("payment.outage_not_told")

    async def rejected(self, operation: str, pause_s: float) -> None:
        """Record a 429: no process makes this call during the pause."""
        if self._rate_per_s:
            try:
                await self._ledger.hold(self._provider, operation, pause_s)
            except Unavailable:
                log.info("payment.budget_not_held", operation=operation)

    async def _reserve(self, operation: str, count: int) -> Sequence[float | None]:
        interval_s = 1 / self._rate_per_s
        granted, first_s = await self._ledger.take(
            self._provider, operation, count, interval_s=interval_s, horizon_s=self._wait_s
        )
        now_s = time.monotonic()
        turns = [now_s + first_s + number * interval_s for number in range(granted)]
        return [*turns, *[None] * (count - granted)]

    async def _put_off(self, orders: list[tuple[UUID, float]]) -> Sequence[None]:
        await self._ledger.put_off(orders)
        return [None] * len(orders)
