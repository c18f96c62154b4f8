"""Natural batching: items that arrive during a round trip (a flush) share the next one.

There is no timer and no added wait. A single item is flushed at once; under load, a batch holds the items that arrived
during one round trip.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter, deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from flashsale.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

QUEUES_MAX = 4
"""Maximum number of full queues of `Lanes`, so that one slow key leaves places for the other keys."""


class Batcher(Generic[Item, Result]):
    """Gathers items into batches and flushes each batch in one round trip.

    `flush` gets 1 to `batch_max` items and gives one result per item, in order; an exception it raises is raised to
    each of their submitters. At most `lanes` flushes run at once and at most `queue_max` items wait. `rivals` gives
    keys of an item: no batch holds two items that share one; the later item waits for the next batch.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        batch_max: int,
        queue_max: int,
        lanes: int = 1,
        rivals: Callable[[Item], Sequence[Hashable]] | None = None,
    ) -> None:
        """Start empty; no task runs while there is nothing to do."""
        self._flush = flush
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._lanes = lanes
        self._rivals = rivals
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._active = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.batches = 0
        """Flushes begun so far."""
        self.items = 0
        """Items in them."""

    @property
    def waiting(self) -> int:
        """The number of items that wait for a flush."""
        return len(self._queue)

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """Return what to await for the item's result.

        Raises:
            Unavailable: if `queue_max` items wait already.
        """
        if len(self._queue) >= self._queue_max:
            raise Unavailable
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        if self._active < self._lanes:
            self._active += 1
            # A lane serves many requests: it carries the context (request id) of none.
            task = asyncio.create_task(self._run(), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def drain(self) -> None:
        """Wait until no item waits and no flush runs."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        try:
            while batch := self._take():
                self.batches += 1
                self.items += len(batch)
                await self._answer(batch)
        finally:
            # No await lies between the last look at the queue and this line, so no item is left without a lane.
            self._active -= 1

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._flush([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"flush gave {len(results)} results for {len(batch)} items")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        queue = self._queue
        if self._rivals is None:
            return [queue.popleft() for _ in range(min(len(queue), self._batch_max))]
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        later: list[tuple[Item, asyncio.Future[Result]]] = []
        taken: set[Hashable] = set()
        while queue and len(batch) < self._batch_max:
            entry = queue.popleft()
            if entry[1].done():
                # Its submitter was cancelled.
                continue
            keys = self._rivals(entry[0])
            if taken.isdisjoint(keys):
                batch.append(entry)
            else:
                later.append(entry)
            # A rival's rivals wait too, so that requests of one key stay in order.
            taken.update(keys)
        queue.extendleft(reversed(later))
        return batch


class Lanes(Generic[Item, Result]):
    """A batcher for each key (a product): no key waits for another's flushes.

    A caller takes a place first and submits later, or not at all: `with lanes.place(key) as queue`. At most `queue_max`
    places of one key are taken at once, and QUEUES_MAX times as many of all keys. The keys are few, and stay.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        batch_max: int,
        queue_max: int,
        lanes: int = 1,
        rivals: Callable[[Item], Sequence[Hashable]] | None = None,
    ) -> None:
        """Start empty; see `Batcher`."""
        self._make = partial(
            Batcher[Item, Result], flush, batch_max=batch_max, queue_max=queue_max, lanes=lanes, rivals=rivals
        )
        self._queue_max = queue_max
        self._batchers: dict[Hashable, Batcher[Item, Result]] = {}
        self._taken: Counter[Hashable] = Counter()
        self._taken_in_all = 0

    @property
    def batches(self) -> int:
        """Flushes begun so far."""
        return sum(batcher.batches for batcher in self._batchers.values())

    @property
    def items(self) -> int:
        """Items in them."""
        return sum(batcher.items for batcher in self._batchers.values())

    @property
    def waiting(self) -> int:
        """The number of places that are taken."""
        return self._taken_in_all

    @contextmanager
    def place(self, key: Hashable) -> Iterator[Batcher[Item, Result]]:
        """Take a place and give what to submit to, as often as needed, one item at a time; leaving gives it up.

        Raises:
            Unavailable: if all places are taken.
        """
        if self._taken[key] >= self._queue_max or self._taken_in_all >= self._queue_max * QUEUES_MAX:
            raise Unavailable
        batcher = self._batchers.get(key)
        if batcher is None:
            batcher = self._batchers[key] = self._make()
        self._taken[key] += 1
        self._taken_in_all += 1
        try:
            yield batcher
        finally:
            self._taken[key] -= 1
            self._taken_in_all -= 1

    async def drain(self) -> None:
        """Wait until no item waits and no flush runs."""
        await asyncio.gather(*(batcher.drain() for batcher in self._batchers.values()))
