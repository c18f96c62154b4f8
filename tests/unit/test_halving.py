"""A refused batch: each item that is wrong is found, each other item is run once, and few calls are needed."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from flashsale.domain.errors import Unavailable
from flashsale.usecases.halving import halve
from flashsale.usecases.ports import PoisonBatch


@st.composite
def batches(draw):
    size = draw(st.integers(0, 600))
    places = st.sets(st.integers(0, max(size - 1, 0)), max_size=min(size, 12))
    return size, draw(places), draw(places)


@given(batches())
async def test_the_culprits_stay_alone_wherever_they_stand(batch):
    size, wrong, away = batch
    away -= wrong
    done, refused, calls = [], [], 0

    async def run(items):
        nonlocal calls
        calls += 1
        if not wrong.isdisjoint(items):
            raise PoisonBatch("wrong", unknown_user=False)
        if not away.isdisjoint(items):
            raise Unavailable
        done.extend(items)
        return list(items)

    async def refuse(item, _poison):
        refused.append(item)

    try:
        results = await halve(range(size), run, refuse)
    except Unavailable:
        results = None
    assert refused == sorted(wrong)
    assert done == sorted(set(done)), "once, in order"
    if results is None:
        assert away
    else:
        assert [item for part in results for item in part] == done
        assert done == [item for item in range(size) if item not in wrong]
    assert calls <= 1 + 2 * len(wrong) * math.ceil(math.log2(max(size, 2)))


async def test_without_halves_one_culprit_takes_all_with_it():
    """The control: what a batch does by itself."""
    wrong = PoisonBatch("wrong", unknown_user=False)

    async def run(items):
        if 3 in items:
            raise wrong
        return items

    refused = []

    async def refuse(item, poison):
        refused.append((item, poison))

    assert await halve([1, 2, 4], run, refuse) == [[1, 2, 4]]
    assert await halve([1, 2, 3, 4], run, refuse) == [[1, 2], [4]]
    assert refused == [(3, wrong)]
