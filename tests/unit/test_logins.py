"""A login does not say whether an email has an account: not by its words, and not by its work."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import argon2
import pytest

from flashsale.adapters.passwords import Argon2Passwords
from flashsale.domain.errors import BadCredentials, Unavailable
from flashsale.domain.users import Role, User
from flashsale.usecases.accounts import Accounts

KNOWN = "ada@example.com"


class Work:
    """Counts what is hashed, with its parameters, and does it."""

    def __init__(self, hasher):
        self.hasher, self.done = hasher, []

    def hash(self, password):
        self.done.append(("hash", None))
        return self.hasher.hash(password)

    def verify(self, hashed, password):
        self.done.append(("verify", argon2.extract_parameters(hashed)))
        return self.hasher.verify(hashed, password)


@pytest.fixture
def desk():
    passwords = Argon2Passwords(concurrency=1, queue_max=1)
    hashed = passwords._hasher.hash("correct horse")
    passwords._hasher = work = Work(passwords._hasher)
    user = User(user_id=uuid4(), name="Ada", email=KNOWN, role=Role.BUYER, created_at=datetime.now(UTC))

    async def credentials(email):
        return (user, hashed) if email == KNOWN else None

    yield Accounts(SimpleNamespace(credentials=credentials), passwords), work
    passwords.close()


@pytest.mark.parametrize("email", ["no@body.example", "a\x00b@body.example"])
async def test_an_unknown_email_costs_the_same_work_as_a_wrong_password_from_the_first_on(desk, email):
    accounts, work = desk
    refusals = []
    for tried in (email, KNOWN):
        with pytest.raises(BadCredentials) as refused:
            await accounts.log_in(email=tried, password="wrong")
        refusals.append(refused.value.detail)
    assert refusals[0] == refusals[1]
    assert len(work.done) == 2
    assert work.done[0] == work.done[1]
    assert (await accounts.log_in(email=KNOWN, password="correct horse")).email == KNOWN


async def test_unknown_emails_wait_in_the_same_bounded_queue(desk):
    accounts, _ = desk
    emails = [KNOWN, "no@body.example", KNOWN, "no@body.example"]
    answers = await asyncio.gather(
        *(accounts.log_in(email=email, password="wrong") for email in emails), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [BadCredentials, BadCredentials, Unavailable, Unavailable]
