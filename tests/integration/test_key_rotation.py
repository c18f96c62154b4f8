"""The secret is rotated over rolls of two API processes, and no honest request is refused."""

import asyncio
import itertools
import json
import re
import secrets
import signal
import sys
import uuid
from asyncio.subprocess import PIPE
from collections import Counter

import httpx
import pytest

from flashsale.domain.users import Principal, Role
from flashsale.http.auth import Tokens
from flashsale.local import rotation
from flashsale.local.access import read_secrets
from flashsale.local.children import ChildFailed
from flashsale.local.stack import Stack
from flashsale.settings.edge import AuthSettings
from tests.conftest import of_this_checkout
from tests.support.api import PLAIN

FIRST, SECOND = "FLASHSALE_AUTH__JWT_SECRET", "FLASHSALE_AUTH__JWT_SECOND_SECRET"
ACCOUNT = {"name": "Ada", "email": "ada@example.com", "password": "correct horse"}


@pytest.fixture
async def stack(tmp_path):
    # A crowd of few accounts asks more often than one buyer may.
    async with Stack(tmp_path, port=0, api=2, environment={"FLASHSALE_LIMITS__ORDERS": "0"}) as stack:
        yield stack


async def ask(stack, token):
    """Ask for an order that does not exist, over a connection of its own: either process may answer."""
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30, verify=PLAIN) as client:
        headers = {"Authorization": f"Bearer {token}"}
        return (await client.get(f"/api/order/{uuid.uuid4()}/status", headers=headers)).status_code


class Crowd:
    """Buyers who log in and ask, all the time."""

    def __init__(self, stack):
        self.stack, self.statuses, self.tokens = stack, Counter(), []
        self.stop = asyncio.Event()

    async def log_in(self):
        async with httpx.AsyncClient(base_url=self.stack.base_url, timeout=30, verify=PLAIN) as client:
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


async def flashsale(*arguments):
    command = [sys.executable, "-m", "flashsale.cli", "secret", *map(str, arguments)]
    child = await asyncio.create_subprocess_exec(*command, env=of_this_checkout(), stdout=PIPE, stderr=PIPE)
    out, error = await child.communicate()
    return child.returncode, (out + error).decode()


@pytest.fixture
async def reloading(stack):
    """Let the stack do on SIGHUP what `flashsale up` does."""
    loop, tasks = asyncio.get_running_loop(), []
    loop.add_signal_handler(signal.SIGHUP, lambda: tasks.append(loop.create_task(stack.reload_keys())))
    yield tasks
    loop.remove_signal_handler(signal.SIGHUP)
    await asyncio.gather(*tasks)


async def test_a_rotation_refuses_nobody_and_then_the_old_key_opens_nothing(stack, reloading):
    old, new = stack.secrets["jwt_secret"], secrets.token_hex(32)
    # The control: a process that signs before all of them know the key shuts its buyers out.
    stack.environment[FIRST], stack.environment[SECOND] = new, old
    await stack.roll("api", 0)
    signed = Tokens(AuthSettings(jwt_secret=new)).issue(Principal(user_id=uuid.uuid4(), role=Role.BUYER))
    assert {await ask(stack, signed) for _ in range(40)} == {401, 404}
    # The rotation, while buyers ask.
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30, verify=PLAIN) as client:
        assert (await client.post("/api/auth/register", json=ACCOUNT)).status_code == 201
    stack.environment[FIRST], stack.environment[SECOND] = old, ""
    await stack.roll("api", 0)
    crowd = Crowd(stack)
    asking = asyncio.create_task(crowd.run())
    code, told = await flashsale("rotate", "--data-dir", stack.data_dir)
    crowd.stop.set()
    await asking
    assert code == 0, told
    assert len(reloading) == 2, "first all accept the new key, then all sign with it"
    assert set(crowd.statuses) == {404}, crowd.statuses
    assert await ask(stack, crowd.tokens[0]) == 404, "tokens of the old key stay valid"
    kept = json.loads((stack.data_dir / "secrets.json").read_text())
    assert kept["jwt_second_secret"] == old != kept["jwt_secret"]
    assert {old, kept["jwt_secret"]}.isdisjoint(told.split())
    code, told = await flashsale("rotate", "--data-dir", stack.data_dir)
    assert (code, len(told.splitlines())) == (1, 1)
    assert "secret drop" in told
    code, told = await flashsale("drop", "--data-dir", stack.data_dir)
    assert code == 0, told
    assert await ask(stack, crowd.tokens[0]) == 401
    await crowd.log_in()
    assert await ask(stack, crowd.tokens[-1]) == 404


async def test_a_stack_at_rest_gets_its_keys_in_the_file(tmp_path):
    first = read_secrets(tmp_path)
    assert "accepted until" in await rotation.rotate(tmp_path)
    second = read_secrets(tmp_path)
    assert (second["jwt_second_secret"], second["jwt_secret"] != first["jwt_secret"]) == (first["jwt_secret"], True)
    assert "refused" in await rotation.drop(tmp_path)
    assert read_secrets(tmp_path) == {**second, "jwt_second_secret": ""}
    for wrong in (rotation.drop(tmp_path), rotation.rotate(tmp_path / "none")):
        with pytest.raises(ChildFailed):
            await wrong
    steps = rotation.deployment_steps()
    key = re.findall(r"(?m)^A new key: (\S+)$", steps)[0]
    assert (
        AuthSettings(jwt_secret=first["jwt_secret"], jwt_second_secret=key).jwt_second_secret.get_secret_value() == key
    )
    assert f"{SECOND}={key}" in steps
