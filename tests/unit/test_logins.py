"""A login does not say whether an email has an account: not by its words, and not by its work."""

import asyncio
import os
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import argon2
import pytest

from flashsale.adapters import hasher
from flashsale.adapters.passwords import Argon2Passwords
from flashsale.domain.errors import BadCredentials, Unavailable
from flashsale.domain.users import Role, User
from flashsale.settings.edge import LoginSettings
from flashsale.usecases.accounts import Accounts, Lane
from flashsale.usecases.login_limits import LocalLoginLimits

KNOWN = "ada@example.com"


class Work(Argon2Passwords):
    """Notes what is hashed, with its parameters, and does it."""

    def __init__(self):
        super().__init__(concurrency=1, queue_max=1, wait_s=30)
        self.done = []
        self.looked_up = 0

    async def _ask(self, password, hashed, lane):
        answer = await super()._ask(password, hashed, lane)
        self.done.append(None if hashed is None else argon2.extract_parameters(hashed))
        return answer


@pytest.fixture
async def desk():
    work = Work()
    hashed = await work.hash("correct horse")
    work.done.clear()
    user = User(user_id=uuid4(), name="Ada", email=KNOWN, role=Role.BUYER, created_at=datetime.now(UTC))

    async def credentials(email):
        work.looked_up += 1
        return (user, hashed) if email == KNOWN else None

    async def administrators():
        return []

    users = SimpleNamespace(credentials=credentials, administrators=administrators)
    yield Accounts(users, work, LocalLoginLimits(LoginSettings())), work
    await work.close()


@pytest.mark.parametrize("email", ["no@body.example", "a\x00b@body.example"])
async def test_an_unknown_email_costs_the_same_work_as_a_wrong_password_from_the_first_on(desk, email):
    accounts, work = desk
    refusals = []
    for tried in (email, KNOWN):
        with pytest.raises(BadCredentials) as refused:
            await accounts.log_in(email=tried, password="wrong", address="a")
        refusals.append(refused.value.detail)
    assert refusals[0] == refusals[1]
    assert len(work.done) == 2
    assert work.done[0] == work.done[1]
    assert (await accounts.log_in(email=KNOWN, password="correct horse", address="a")).email == KNOWN


async def test_unknown_emails_wait_in_the_same_bounded_queue(desk):
    accounts, _ = desk
    emails = [KNOWN, "no@body.example", KNOWN, "no@body.example"]
    answers = await asyncio.gather(
        *(accounts.log_in(email=email, password="wrong", address="a") for email in emails), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [BadCredentials, BadCredentials, Unavailable, Unavailable]


async def test_a_login_that_finds_no_room_costs_no_look_into_the_database(desk):
    accounts, work = desk
    hashing = [asyncio.create_task(work.hash("correct horse")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await accounts.log_in(email=KNOWN, password="wrong", address="a")
    assert not work.looked_up
    await asyncio.gather(*hashing)


async def test_a_hasher_that_was_killed_is_replaced(desk):
    accounts, work = desk
    killed = work._idle[0]
    killed.kill()
    await killed.wait()
    with pytest.raises(Unavailable):
        await accounts.log_in(email=KNOWN, password="correct horse", address="a")
    assert (await accounts.log_in(email=KNOWN, password="correct horse", address="a")).email == KNOWN


async def test_who_leaves_in_the_middle_of_a_hash_does_not_leave_its_answer_to_the_next(desk):
    accounts, work = desk
    leaving = asyncio.create_task(accounts.log_in(email=KNOWN, password="correct horse", address="a"))
    while work._idle:
        await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(BadCredentials):
        await accounts.log_in(email=KNOWN, password="wrong", address="a")


async def test_a_password_may_hold_anything_that_text_can(desk):
    _, work = desk
    password = 'line\nbreak \u2028 "quotes" \ud83d\ude80'
    hashed = await work.hash(password)
    assert await work.verify(password, hashed, Lane.OTHERS)
    assert not await work.verify(password + " ", hashed, Lane.OTHERS)


async def test_the_hasher_has_a_low_priority_and_ends_with_its_input(desk):
    _, work = desk
    process = work._idle[0]
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == hasher.NICE
    process.stdin.close()
    async with asyncio.timeout(60):
        assert await process.wait() == 0
