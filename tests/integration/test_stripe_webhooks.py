"""Webhooks that the simulator sends: signed as Stripe signs, repeated until taken, and wrong only when told so."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.receiver import Receiver, receiving
from tests.support.stripe_dialect import Dialect, dialect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

INTENTS = "/v1/payment_intents"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def simulator() -> AsyncIterator[Dialect]:
    async with dialect(webhook_retry_s=0.02) as simulator:
        yield simulator


async def listen(simulator: Dialect, receiver: Receiver, *types: str) -> Any:
    form = {"url": receiver.url, **{f"enabled_events[{n}]": type_ for n, type_ in enumerate(types or ("*",))}}
    reply = await simulator.ask("POST", "/v1/webhook_endpoints", form)
    assert reply.status == 200, reply.body
    return reply.body


async def counts(simulator: Dialect) -> dict[str, int]:
    _, summary = await simulator.service.ask("GET", "/v1/ledger/summary")
    return summary["webhooks"]


def types(receiver: Receiver) -> list[str]:
    return [json.loads(body)["type"] for _, body in receiver.came]


def signed_by(secret: str, headers: dict[str, str], body: bytes) -> bool:
    parts = dict(part.split("=") for part in headers["Stripe-Signature"].split(","))
    mac = hmac.new(secret.encode(), parts["t"].encode() + b"." + body, hashlib.sha256)
    return hmac.compare_digest(mac.hexdigest(), parts["v1"])


async def test_each_change_of_an_intent_sends_its_event_signed(simulator: Dialect, receiver: Receiver) -> None:
    endpoint = await listen(simulator, receiver, "payment_intent.amount_capturable_updated", "payment_intent.succeeded")
    intent = await simulator.intent(**{"metadata[order_id]": "order-1"})
    await simulator.pay(intent)
    await receiver.arrived(1)
    await simulator.ask("POST", f"{INTENTS}/{intent['id']}/capture")
    came = await receiver.arrived(2)
    assert all(signed_by(endpoint["secret"], headers, body) for headers, body in came)
    assert not signed_by("whsec_other", *came[0])
    assert types(receiver) == ["payment_intent.amount_capturable_updated", "payment_intent.succeeded"]
    event = json.loads(came[1][1])
    assert event["data"]["object"]["metadata"] == {"order_id": "order-1"}
    listed = await simulator.ask("GET", "/v1/events", {"type": "payment_intent.succeeded"})
    assert [one["id"] for one in listed.body["data"]] == [event["id"]]
    assert (await simulator.ask("GET", f"/v1/events/{event['id']}")).body["type"] == "payment_intent.succeeded"


async def test_a_webhook_that_is_refused_is_repeated_with_the_same_event(
    simulator: Dialect, receiver: Receiver
) -> None:
    await listen(simulator, receiver)
    receiver.answers = [500, 302, 404]
    await simulator.intent()
    came = await receiver.arrived(4)
    assert len({json.loads(body)["id"] for _, body in came}) == 1


FAULTS = {
    "webhookDuplicateRate": lambda came, _: came == 2,
    "webhookLossRate": lambda came, said: (came, said["lost"]) == (0, 1),
    "webhookBadSignatureRate": lambda _, said: said["badly_signed"] == 1,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_of_webhooks_happens_when_told(simulator: Dialect, receiver: Receiver, fault: str) -> None:
    endpoint = await listen(simulator, receiver)
    await simulator.service.set_faults(**{fault: 1})
    receiver.answers = [400] if fault == "webhookBadSignatureRate" else []
    await simulator.intent()
    async with asyncio.timeout(60):
        while not FAULTS[fault](len(receiver.came), await counts(simulator)):
            await asyncio.sleep(0.02)
    if fault == "webhookBadSignatureRate":
        wrong, right = await receiver.arrived(2)
        assert not signed_by(endpoint["secret"], *wrong)
        assert signed_by(endpoint["secret"], *right)


async def test_a_reordered_webhook_comes_after_a_later_one(simulator: Dialect, receiver: Receiver) -> None:
    await listen(simulator, receiver, "payment_intent.created", "payment_intent.canceled")
    await simulator.service.set_faults(webhookReorderRate=1)
    intent = await simulator.intent()
    while not (await counts(simulator)).get("reordered"):
        await asyncio.sleep(0.01)
    await simulator.service.set_faults(webhookReorderRate=0)
    await simulator.ask("POST", f"{INTENTS}/{intent['id']}/cancel")
    await receiver.arrived(2)
    assert types(receiver) == ["payment_intent.canceled", "payment_intent.created"]


async def test_a_deleted_endpoint_gets_nothing_more(simulator: Dialect, receiver: Receiver) -> None:
    endpoint = await listen(simulator, receiver)
    gone = await simulator.ask("DELETE", f"/v1/webhook_endpoints/{endpoint['id']}")
    assert gone.body["deleted"] is True
    await simulator.intent()
    assert (await simulator.ask("GET", "/v1/webhook_endpoints")).body["data"] == []
    assert receiver.came == []


async def test_what_was_not_taken_is_sent_after_a_restart(receiver: Receiver, tmp_path: Path) -> None:
    path = str(tmp_path / "ledger.jsonl")
    async with dialect(ledger_path=path, webhook_delay_mean_s=3600) as simulator:
        endpoint = await listen(simulator, receiver, "payment_intent.created")
        intent = await simulator.intent(key="k")
    assert receiver.came == []
    async with dialect(ledger_path=path) as simulator:
        ((headers, body),) = await receiver.arrived(1)
        assert signed_by(endpoint["secret"], headers, body)
        assert json.loads(body)["data"]["object"]["id"] == intent["id"]
        assert (await simulator.intent(key="k")) == intent
        assert set(await simulator.ledger()) == {intent["id"]}
