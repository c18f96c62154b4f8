"""Whatever Redis refuses, and whenever: the gate is bypassed, and one line of the log says why."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit
from uuid import uuid4

import hiredis
import pytest
from structlog.testing import capture_logs

from flashsale.adapters.redis.connection import GateAway
from flashsale.adapters.redis.gate import RedisGate
from flashsale.domain.gate import Admission
from flashsale.domain.requests import BuyRequest
from flashsale.settings.groups import GateSettings, RedisSettings
from tests.conftest import add_buyers, add_product
from tests.support.accepting import new_id
from tests.support.gates import ask

REFUSALS = {
    "NOAUTH": "NOAUTH Authentication required.",
    "WRONGPASS": "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM": "NOPERM User default has no permissions to run this command",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "READONLY": "READONLY You can't write against a read only replica.",
    "MOVED": "MOVED 3999 10.0.0.7:6381",
    "ASK": "ASK 3999 10.0.0.7:6381",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "MISCONF": "MISCONF Errors writing to the AOF file: No space left on device",
    "NOSCRIPT": "NOSCRIPT No matching script. Please use EVAL.",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "UNKNOWN": "ERR unknown command",
    "MAXCLIENTS": "ERR max number of clients reached",
    "DATABASE": "ERR DB index is out of range",
}
PASSING = (b"LOADING", b"max number", b":1")
"""What may go by itself: the server has not answered the question yet, or not this one."""

COMMANDS = ["AUTH", "SELECT", "INFO", "SCRIPT", "EVALSHA"]
ANSWERS_ON = ["INFO, nothing in it", "INFO, no run_id", "INFO, no text"]


@asynccontextmanager
async def refusing(url, command, reply, *, about=b""):
    """A way to a real server on which one command, about a key that holds `about`, is answered with `reply` instead."""
    server = urlsplit(url)

    async def serve(reader, writer):
        requests, parser = hiredis.Reader(), hiredis.Reader()
        there, back = await asyncio.open_connection(server.hostname, server.port)
        try:
            while data := await reader.read(65_536):
                requests.feed(data)
                while (asked := requests.gets()) is not False:
                    back.write(hiredis.pack_command(tuple(asked)))
                    answer = b""
                    while parser.gets() is False:
                        piece = await there.read(65_536)
                        parser.feed(piece)
                        answer += piece
                    seen.append(asked[0].decode().upper())
                    refused = seen[-1] == command and any(about in part for part in asked)
                    writer.write(reply if refused else answer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            back.close()

    seen = []
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        yield SimpleNamespace(url=f"redis://:{server.password}@127.0.0.1:{port}/1", seen=seen)


def replies():
    for command in COMMANDS:
        for name, text in REFUSALS.items():
            yield pytest.param(command, b"-" + text.encode() + b"\r\n", id=f"{command}: {name}")
    empty, other = b"$0\r\n\r\n", b"redis_version:7.0.0\r\nredis_mode:standalone\r\n"
    for name, reply in zip(ANSWERS_ON, (empty, b"$%d\r\n%b\r\n" % (len(other), other), b":1\r\n"), strict=True):
        yield pytest.param("INFO", reply, id=name)


@pytest.mark.parametrize(("command", "reply"), list(replies()))
async def test_every_refusal_of_every_command_is_a_bypass_and_one_line(valkey, command, reply):
    product = SimpleNamespace(product_id=1, epoch=1, limit_per_buyer=None)
    request = BuyRequest(user_id=uuid4(), product_id=1, quantity=1, key=None)
    async with refusing(valkey.url, command, reply) as way:
        gate = RedisGate(RedisSettings(url=way.url, timeout_s=10, reconnect_s=0.001), GateSettings())
        with capture_logs() as lines:
            for _ in range(4):
                answer = await gate.admit(product, new_id(), request)
                assert answer.admission is Admission.BYPASS
                await asyncio.sleep(0.002)
            assert not (await gate.state(1, 1)).loaded
            assert not await gate.load(1, epoch=1, stock=1)
            assert await gate.overdue_leases(1, limit=1) == []
        await gate.close()
        assert way.seen.count(command) >= 2, "asked again, and refused again"
    said = [line for line in lines if line["event"].startswith("gate.")]
    assert len(said) == 1, said
    assert said[0]["event"] == ("gate.away" if any(kind in reply for kind in PASSING) else "gate.refused")
    assert said[0]["problem"]
    assert urlsplit(valkey.url).password not in str(said)


async def test_a_buy_is_sold_by_postgres_while_redis_refuses(services, valkey):
    product = await add_product(services)
    users = await add_buyers(services, 2)
    async with refusing(valkey.url, "INFO", b"$0\r\n\r\n") as way:
        services.buy._gate = RedisGate(RedisSettings(url=way.url, timeout_s=10), GateSettings())
        accepted = await services.buy(ask(product, users[0]))
        assert accepted.product_id == product.product_id
        await services.buy._gate.close()
    assert way.seen


SCRIPT_FAILURES = {
    "value": b"-ERR value is not an integer or out of range script: 5cff, on @user_script:113.\r\n",
    "type": b"-WRONGTYPE Operation against a key holding the wrong kind of value script: 5cff, on @user_script:9.\r\n",
    "code": b"-ERR user_script:7: attempt to compare nil with number script: 5cff, on @user_script:7.\r\n",
}


@pytest.mark.parametrize("failure", SCRIPT_FAILURES)
async def test_a_script_that_fails_for_one_product_leaves_the_gate_to_the_others(services, valkey, failure):
    broken, sound = await add_product(services), await add_product(services)
    user = (await add_buyers(services, 1))[0]
    about = b"{%d}:tries" % broken.product_id
    async with refusing(valkey.url, "EVALSHA", SCRIPT_FAILURES[failure], about=about) as way:
        gate = RedisGate(RedisSettings(url=way.url, timeout_s=10), GateSettings())
        unloaded = []
        gate.on_unloaded = unloaded.append
        for product in (broken, sound):
            assert await gate.load(product.product_id, epoch=product.epoch, stock=10)
        for _ in range(3):
            asked = [gate.admit(product, new_id(), ask(product, user)) for product in (broken, sound)]
            answers = [answer.admission for answer in await asyncio.gather(*asked)]
            assert answers == [Admission.BYPASS, Admission.ADMITTED]
            assert not gate.away(1)
        assert set(unloaded) == {broken.product_id}
        # Loaded again, although `state.lua` finds nothing wrong.
        assert not (await gate.state(broken.product_id, broken.epoch)).loaded
        assert await gate.load(broken.product_id, epoch=broken.epoch + 1, stock=10)
        assert (await gate.state(broken.product_id, broken.epoch + 1)).loaded
        await gate.close()


async def test_what_a_script_fails_with_is_told_from_what_the_server_says_of_itself(services, valkey, redis):
    gate = services.gate
    await redis.hset("a hash", "field", "value")
    failing = ("EVAL", "return redis.call('INCR', KEYS[1])", 1, "a hash")
    failed, answer = await gate._servers.connection.call(lambda _: [failing, ("PING",)])
    assert (type(failed).__name__, answer) == ("ScriptFailed", "PONG")
    assert not gate.away(1)
    # A server without memory refuses every script.
    with pytest.raises(GateAway):
        await gate._servers.connection.call(
            lambda _: [("EVAL", "return redis.error_reply('OOM command not allowed, on @user_script:1.')", 0)]
        )
    assert gate.away(1)
