"""What a process remembers of revoked tokens: nothing is lost, and nothing stays for ever."""

import asyncio
import time
from uuid import uuid4

import pytest

from flashsale.domain.errors import Unavailable
from flashsale.domain.users import Principal, Revocation, Role
from flashsale.usecases.revocations import ISSUING_S, OVERLAP_S, Revocations

USER = uuid4()


class Log:
    """The truth, with a pause in its answer."""

    def __init__(self):
        self.rows, self.asked = [], []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def revocations(self, *, since_s):
        self.asked.append(since_s)
        rows = list(self.rows)
        await self.go_on.wait()
        return rows


def of(generation):
    return Principal(user_id=USER, role=Role.BUYER, generation=generation)


def revocation(generation):
    return Revocation(user_id=USER, generation=generation)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
async def known(log):
    made = Revocations(log, token_s=60, poll_s=60)
    await made.refresh()
    return made


async def test_before_the_first_reading_nobody_knows(log):
    with pytest.raises(Unavailable):
        Revocations(log, token_s=60, poll_s=60).holds(of(0))


async def test_tokens_of_a_lower_generation_end_and_others_do_not(known):
    known.take(revocation(3))
    assert [known.holds(of(generation)) for generation in (2, 3, 4)] == [False, True, True]
    known.take(revocation(2))
    assert not known.holds(of(2)), "older news change nothing"
    assert known.holds(Principal(user_id=uuid4(), role=Role.BUYER))


async def test_what_is_revoked_while_everything_is_read_is_not_lost(log, known):
    log.go_on.clear()
    reading = asyncio.create_task(known.refresh(everything=True))
    await asyncio.sleep(0)
    known.take(revocation(1))
    log.go_on.set()
    await reading
    assert not known.holds(of(0))


async def test_after_a_failover_the_truth_counts_not_the_memory(log, known):
    known.take(revocation(4), age_s=1)
    await known.refresh()
    assert not known.holds(of(3))
    log.rows = [(revocation(3), 20.0)]
    await known.refresh(everything=True)
    assert known.holds(of(3))
    assert not known.holds(of(2))


async def test_a_revocation_is_forgotten_when_no_older_token_can_hold(log, known, monkeypatch):
    known.take(revocation(1))
    known.take(Revocation(user_id=uuid4(), generation=1))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60 + ISSUING_S - 1)
    await known.refresh()
    assert len(known._lowest) == 2
    monkeypatch.setattr(time, "monotonic", lambda: now + 60 + ISSUING_S + 1)
    await known.refresh()
    assert not known._lowest


async def test_a_poll_reads_what_is_new_and_a_little_more(log, known):
    await known.refresh()
    await known.refresh(everything=True)
    whole, some, again = log.asked
    assert whole == again == 60 + ISSUING_S
    assert OVERLAP_S <= some < OVERLAP_S + 5
