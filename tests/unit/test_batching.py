import asyncio

import pytest

from flashsale.domain.errors import Unavailable
from flashsale.usecases.batching import Batcher


class Recorder:
    """A flush that notes its batches and waits for leave."""

    def __init__(self):
        self.batches = []
        self.leave = asyncio.Event()

    async def __call__(self, items):
        self.batches.append(list(items))
        await self.leave.wait()
        return [item * 10 for item in items]


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_while_one_flush_is_on_its_way_requests_gather():
    flush = Recorder()
    batcher = Batcher(flush, batch_max=10, queue_max=100)
    first = batcher.submit(1)
    await settle()
    rest = [batcher.submit(n) for n in range(2, 5)]
    await settle()
    assert flush.batches == [[1]]
    flush.leave.set()
    assert await asyncio.gather(first, *rest) == [10, 20, 30, 40]
    assert flush.batches == [[1], [2, 3, 4]]


async def test_a_batch_has_a_maximum_and_so_has_the_queue():
    flush = Recorder()
    batcher = Batcher(flush, batch_max=2, queue_max=3)
    tasks = [batcher.submit(0)]
    await settle()
    tasks += [batcher.submit(n) for n in range(1, 4)]
    await settle()
    with pytest.raises(Unavailable):
        await batcher.submit(9)
    flush.leave.set()
    await asyncio.gather(*tasks)
    assert flush.batches == [[0], [1, 2], [3]]


async def test_rivals_are_never_in_one_batch_and_stay_in_order():
    flush = Recorder()
    batcher = Batcher(flush, batch_max=10, queue_max=100, rivals=lambda n: (n % 10,))
    tasks = [batcher.submit(n) for n in (1, 11, 2, 21)]
    await settle()
    flush.leave.set()
    assert await asyncio.gather(*tasks) == [10, 110, 20, 210]
    assert flush.batches == [[1, 2], [11], [21]]


async def test_lanes_flush_at_once():
    flush = Recorder()
    batcher = Batcher(flush, batch_max=1, queue_max=100, lanes=2)
    tasks = [batcher.submit(n) for n in range(3)]
    await settle()
    assert flush.batches == [[0], [1]]
    flush.leave.set()
    await asyncio.gather(*tasks)


async def test_a_failure_reaches_every_caller_of_its_batch_and_no_other():
    async def flush(items):
        if 1 in items:
            raise ValueError("no")
        return items

    batcher = Batcher(flush, batch_max=1, queue_max=100)
    results = await asyncio.gather(*(batcher.submit(n) for n in (1, 2)), return_exceptions=True)
    assert isinstance(results[0], ValueError)
    assert results[1] == 2


async def test_no_item_is_left_behind_when_the_queue_runs_empty():
    async def flush(items):
        return items

    batcher = Batcher(flush, batch_max=3, queue_max=1000)
    for _ in range(200):
        assert await asyncio.wait_for(batcher.submit(1), 60) == 1
    assert await asyncio.wait_for(asyncio.gather(*(batcher.submit(n) for n in range(100))), 60) == list(range(100))


async def test_a_cancelled_caller_does_not_affect_the_others():
    flush = Recorder()
    batcher = Batcher(flush, batch_max=10, queue_max=100)
    leaver = batcher.submit(1)
    stayer = batcher.submit(2)
    await settle()
    leaver.cancel()
    flush.leave.set()
    assert await stayer == 20
    await batcher.drain()
