"""The secret is rotated over rolls of two API processes, and no honest request is refused."""

import asyncio
import itertools
import secrets
import uuid
from collections import Counter

import httpx
import pytest

from flashsale.domain.users import Principal, Role
from flashsale.http.auth import Tokens
from flashsale.local.stack import Stack
from flashsale.settings.groups import AuthSettings

FIRST, SECOND = "FLASHSALE_AUTH__JWT_SECRET", "FLASHSALE_AUTH__JWT_SECOND_SECRET"
ACCOUNT = {"name": "Ada", "email": "ada@example.com", "password": "correct horse"}


@pytest.fixture
async def stack(tmp_path):
    async with Stack(tmp_path, port=0, api=2) as stack:
        yield stack


async def ask(stack, token):
    """Ask for an order that does not exist, over a connection of its own: either process may answer."""
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30) as client:
        headers = {"Authorization": f"Bearer {token}"}
        return (await client.get(f"/api/order/{uuid.uuid4()}/status", headers=headers)).status_code


class Crowd:
    """Buyers who log in and ask, all the time."""

    def __init__(self, stack):
        self.stack, self.statuses, self.tokens = stack, Counter(), []
        self.stop = asyncio.Event()

    async def log_in(self):
        async with httpx.AsyncClient(base_url=self.stack.base_url, timeout=30) as client:
            body = {name: ACCOUNT[name] for name in ("email", "password")}
            answer = await client.post("/api/auth/login", json=body)
        assert answer.status_code == 200, answer.text
        self.tokens.append(answer.json()["token"])

    async def run(self):
        for turn in itertools.count():
            if turn % 5 == 0:
                await self.log_in()
            for token in {self.tokens[0], self.tokens[-1]}:
                self.statuses[await ask(self.stack, token)] += 1
            if self.stop.is_set():
                return


async def roll(stack, signing, second):
    stack.environment[FIRST], stack.environment[SECOND] = signing, second
    for index in range(2):
        await stack.roll("api", index)


async def test_a_rotation_refuses_nobody_and_then_the_old_key_opens_nothing(stack):
    old, new = stack.secrets["jwt_secret"], secrets.token_hex(32)
    # The control: a process that signs before all of them know the key shuts its buyers out.
    stack.environment[FIRST], stack.environment[SECOND] = new, old
    await stack.roll("api", 0)
    signed = Tokens(AuthSettings(jwt_secret=new)).issue(Principal(user_id=uuid.uuid4(), role=Role.BUYER))
    assert {await ask(stack, signed) for _ in range(40)} == {401, 404}
    await roll(stack, old, new)
    assert {await ask(stack, signed) for _ in range(40)} == {404}
    # The second roll, while buyers ask.
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30) as client:
        assert (await client.post("/api/auth/register", json=ACCOUNT)).status_code == 201
    crowd = Crowd(stack)
    asking = asyncio.create_task(crowd.run())
    await roll(stack, new, old)
    crowd.stop.set()
    await asking
    assert set(crowd.statuses) == {404}, crowd.statuses
    assert await ask(stack, crowd.tokens[0]) == 404, "an hour for those of the old key"
    await roll(stack, new, "")
    assert await ask(stack, crowd.tokens[0]) == 401
    await crowd.log_in()
    assert await ask(stack, crowd.tokens[-1]) == 404
