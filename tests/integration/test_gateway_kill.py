"""The payment gateway simulator, killed with SIGKILL: what it told anyone is still true when it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from flashsale.adapters.payments.simulator import SimulatorGateway
from flashsale.domain.money import Money
from flashsale.domain.payments import ChargeAnswer, ChargeOutcome, LedgerEntry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "the-gateway-secret"
PRICE = Money(minor=99_999, currency="USD")
SOON_S = 20.0
READY = "the simulator is ready"
PROGRAM = f"""
import asyncio, socket, sys
from flashsale.simulator.service import run_simulator
from flashsale.settings.simulator import SimulatorSettings

settings = SimulatorSettings(
    latency_mean_s=0.0, decline_rate=0.1, ledger_path=sys.argv[2], rate_limit_per_s=0, account_limit_per_s=0
)
sock = socket.socket(fileno=int(sys.argv[1]))
ready = lambda: print({READY!r}, flush=True)
asyncio.run(run_simulator(settings, {SECRET!r}, sock=sock, ready=ready, stop=asyncio.Event()))
"""


class Killable:
    """The simulator in a process of its own on a socket that outlives it, so that its address stays."""

    def __init__(self, ledger_path: Path) -> None:
        self._ledger_path = ledger_path
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        self.output = ""

    async def start(self) -> None:
        os.set_inheritable(self._sock.fileno(), True)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            str(self._sock.fileno()),
            str(self._ledger_path),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=[self._sock.fileno()],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(SOON_S):
            while READY not in self.output:
                line = await self._process.stdout.readline()
                assert line, self.output
                self.output += line.decode()

    async def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            rest, _ = await self._process.communicate()
            self.output += rest.decode()
            self._process = None

    async def close(self) -> None:
        await self.kill()
        self._sock.close()

    async def restart(self) -> None:
        await self.kill()
        self.output = ""
        await self.start()


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Killable]:
    simulator = Killable(tmp_path / "ledger.jsonl")
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.close()


@pytest.fixture
async def gateway(simulator: Killable) -> AsyncIterator[SimulatorGateway]:
    async with SimulatorGateway(simulator.url, SECRET, connections_max=720) as gateway:
        yield gateway


async def ledger(gateway: SimulatorGateway) -> dict[str, LedgerEntry]:
    return {entry.key: entry async for entry in gateway.ledger()}


async def test_a_killed_simulator_comes_back_with_its_ledger(simulator: Killable, gateway: SimulatorGateway) -> None:
    keys = [f"key-{number}" for number in range(50)]
    before = [await gateway.charge(order_id=key, amount=PRICE, timeout_s=SOON_S) for key in keys]
    await gateway.cancel(order_id="cancelled", timeout_s=SOON_S)
    entries = await ledger(gateway)

    await simulator.restart()

    assert await ledger(gateway) == entries
    assert [await gateway.charge(order_id=key, amount=PRICE, timeout_s=SOON_S) for key in keys] == before
    late = await gateway.charge(order_id="cancelled", amount=PRICE, timeout_s=SOON_S)
    assert late.outcome is ChargeOutcome.CANCELLED
    assert all(entry.captures == (entry.status == "captured") for entry in (await ledger(gateway)).values())


async def test_a_charge_in_flight_when_it_is_killed_was_never_captured(
    simulator: Killable, gateway: SimulatorGateway
) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as http:
        async with http.put(simulator.url + "/v1/faults", json={"latencyMeanS": 3600}) as response:
            assert response.status == 200
        charging = [
            asyncio.create_task(gateway.charge(order_id=key, amount=PRICE, timeout_s=SOON_S))
            for key in ("again", "never")
        ]
        async with asyncio.timeout(SOON_S):
            while set(await ledger(gateway)) != {"again", "never"}:
                pass

    await simulator.restart()

    assert {charge.outcome for charge in await asyncio.gather(*charging)} == {ChargeOutcome.UNKNOWN}
    assert all(entry.captures == 0 for entry in (await ledger(gateway)).values())
    never = await gateway.cancel(order_id="never", timeout_s=SOON_S)
    assert never.outcome is ChargeOutcome.CANCELLED
    again = await gateway.charge(order_id="again", amount=PRICE, timeout_s=SOON_S)
    assert again.outcome in (ChargeOutcome.CAPTURED, ChargeOutcome.DECLINED)
    assert all(entry.captures == (entry.status == "captured") for entry in (await ledger(gateway)).values())


@pytest.mark.parametrize("answers", [1, 40, 200])
async def test_what_was_answered_before_a_kill_under_load_is_still_true(
    simulator: Killable, gateway: SimulatorGateway, answers: int
) -> None:
    told: dict[str, ChargeAnswer] = {}
    enough = asyncio.Event()

    async def charge(key: str) -> None:
        charge = await gateway.charge(order_id=key, amount=PRICE, timeout_s=SOON_S)
        told[key] = charge
        if len(told) >= answers:
            enough.set()

    async with asyncio.TaskGroup() as group:
        for number in range(600):
            group.create_task(charge(f"key-{number}"))
        await enough.wait()
        await simulator.kill()

    await simulator.start()

    entries = await ledger(gateway)
    definite = {key: charge for key, charge in told.items() if charge.outcome is not ChargeOutcome.UNKNOWN}
    assert definite
    assert {key: entries[key].status for key in definite} == {k: c.outcome.value for k, c in definite.items()}
    # What was unknown is found out by sending the same key again, and nobody is charged twice.
    for key in told.keys() - definite.keys():
        found = await gateway.charge(order_id=key, amount=PRICE, timeout_s=SOON_S)
        assert found.outcome in (ChargeOutcome.CAPTURED, ChargeOutcome.DECLINED)
    assert {entry.captures for entry in (await ledger(gateway)).values()} == {0, 1}


@pytest.mark.parametrize("answers", [1, 60])
async def test_what_was_answered_in_stripes_dialect_before_a_kill_is_still_true(
    simulator: Killable, answers: int
) -> None:
    told: dict[str, tuple[int, Any]] = {}
    enough = asyncio.Event()
    form = {"amount": "99999", "currency": "usd", "payment_method_types[]": "card"}

    async def open_and_pay(http: aiohttp.ClientSession, key: str) -> tuple[int, Any]:
        data = {**form, "payment_method": "pm_card_visa", "confirm": "true", "metadata[order_id]": key}
        url = f"{simulator.url}/v1/payment_intents"
        async with http.post(url, data=data, headers={"Idempotency-Key": key}) as response:
            return response.status, await response.json()

    async def ask(http: aiohttp.ClientSession, key: str) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            told[key] = await open_and_pay(http, key)
            if len(told) >= answers:
                enough.set()

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as http:
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(ask(http, f"order-{number}"))
            await enough.wait()
            await simulator.kill()
            before = dict(told)
            await simulator.start()  # what was not taken from the socket yet is answered by the new process
        assert len(before) >= answers
        assert {key: await open_and_pay(http, key) for key in before} == before
        for number in range(200):
            await open_and_pay(http, f"order-{number}")
        async with http.get(f"{simulator.url}/v1/ledger") as response:
            lines = [json.loads(line) for line in (await response.text()).splitlines()]
    # Each key made one intent, whether or not its first answer was seen.
    assert sorted(line["orderId"] for line in lines) == sorted(f"order-{number}" for number in range(200))
    assert all(line["captures"] == (line["status"] == "captured") for line in lines)


async def test_the_secret_is_never_written_and_the_seed_is(simulator: Killable, gateway: SimulatorGateway) -> None:
    await gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    await simulator.kill()
    assert SECRET not in simulator.output
    assert "seed" in simulator.output
