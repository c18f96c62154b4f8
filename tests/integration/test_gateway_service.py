"""The payment gateway simulator over a real socket, asked by its real client: true to its keys, whatever goes wrong."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from flashsale.adapters.payments.simulator import GatewayMisuse, SimulatorGateway
from flashsale.domain.errors import Unavailable
from flashsale.domain.money import Money
from flashsale.domain.payments import ChargeOutcome
from tests.support.gateway import BODY, SECRET, SOON_S, Service, http_answer, running, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PRICE = Money(minor=99_999, currency="USD")
NEVER_S = 3600.0


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with running() as service:
        yield service


# --- one key, one charge --------------------------------------------------------------------------------------------


async def test_fifty_concurrent_repeats_are_one_charge(service: Service) -> None:
    await service.set_faults(latencyMeanS=0.2, latencySigma=0)
    charges = await asyncio.gather(
        *(service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S) for _ in range(50))
    )
    assert {charge.outcome for charge in charges} == {ChargeOutcome.CAPTURED}
    assert len({charge.reference for charge in charges}) == 1
    assert (await service.post_charge("key"))[1]["id"] == charges[0].reference
    entry = await service.entry("key")
    assert entry is not None
    assert (entry.status, entry.captures, entry.amount_minor) == ("captured", 1, PRICE.minor)


async def test_a_caller_that_gives_up_stops_nothing_and_its_repeat_finds_the_same_charge(
    service: Service,
) -> None:
    await service.set_faults(latencyMeanS=0.5, latencySigma=0)
    first = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=0.1)
    repeat = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    assert (first.outcome, repeat.outcome) == (ChargeOutcome.UNKNOWN, ChargeOutcome.CAPTURED)
    entry = await service.entry("key")
    assert entry is not None
    assert entry.captures == 1


async def test_a_decline_is_definite_and_stays(service: Service) -> None:
    await service.set_faults(declineRate=1)
    first = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    await service.set_faults(declineRate=0)
    repeat = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    assert first == repeat
    assert first.outcome is ChargeOutcome.DECLINED
    assert first.reference
    assert (await service.gateway.cancel(order_id="key", timeout_s=SOON_S)).outcome is ChargeOutcome.DECLINED


@pytest.mark.parametrize("other", [{"amountMinor": 1}, {"currency": "EUR"}, {"reference": "other"}])
async def test_a_key_with_another_body_is_refused_and_charges_nothing(service: Service, other: dict[str, Any]) -> None:
    assert (await service.post_charge("key"))[0] == 200
    status, problem = await service.post_charge("key", {**BODY, **other})
    assert (status, problem["code"]) == (422, "key_reused")
    refused = await service.gateway.charge(order_id="key", amount=Money(minor=1, currency="USD"), timeout_s=SOON_S)
    assert refused.outcome is ChargeOutcome.UNSENT
    entry = await service.entry("key")
    assert entry is not None
    assert (entry.captures, entry.amount_minor) == (1, PRICE.minor)


# --- cancel ---------------------------------------------------------------------------------------------------------


async def test_a_key_cancelled_before_it_was_seen_is_never_charged(service: Service) -> None:
    assert (await service.gateway.cancel(order_id="key", timeout_s=SOON_S)).outcome is ChargeOutcome.CANCELLED
    status, answer = await service.post_charge("key")
    assert (status, answer["status"]) == (409, "cancelled")
    charge = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    assert charge.outcome is ChargeOutcome.CANCELLED
    entry = await service.entry("key")
    assert entry is not None
    assert (entry.status, entry.captures) == ("cancelled", 0)


async def test_a_cancel_during_the_charge_answers_everyone_who_waits_and_captures_nothing(
    service: Service,
) -> None:
    await service.set_faults(latencyMeanS=NEVER_S, latencySigma=0)
    waiting = [
        asyncio.create_task(service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)) for _ in range(3)
    ]
    await service.until_pending("key")
    assert (await service.ask("GET", "/v1/charges/key"))[1]["status"] == "pending"
    assert (await service.gateway.cancel(order_id="key", timeout_s=SOON_S)).outcome is ChargeOutcome.CANCELLED
    charges = await asyncio.gather(*waiting)
    assert {charge.outcome for charge in charges} == {ChargeOutcome.CANCELLED}
    await service.set_faults(latencyMeanS=0)
    late = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    assert late.outcome is ChargeOutcome.CANCELLED
    entry = await service.entry("key")
    assert entry is not None
    assert entry.captures == 0


async def test_a_cancel_after_the_capture_changes_nothing_and_says_captured(service: Service) -> None:
    charge = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    assert await service.gateway.cancel(order_id="key", timeout_s=SOON_S) == charge
    assert (await service.ask("GET", "/v1/charges/key"))[1]["status"] == "captured"


async def test_cancel_and_capture_race_and_every_caller_gets_the_same_answer(service: Service) -> None:
    await service.set_faults(latencyMeanS=0.05, latencySigma=0.5)

    async def race(number: int) -> bool:
        charge, cancel = await asyncio.gather(
            service.gateway.charge(order_id=f"key-{number}", amount=PRICE, timeout_s=SOON_S),
            cancel_after(f"key-{number}", number * 0.002),
        )
        assert charge.outcome is cancel.outcome
        return charge.outcome is ChargeOutcome.CAPTURED

    async def cancel_after(key: str, delay_s: float) -> Any:
        await asyncio.sleep(delay_s)  # the race itself
        return await service.gateway.cancel(order_id=key, timeout_s=SOON_S)

    won: list[bool] = []
    # Cancels come later and later, until each side has won: how soon, depends on the machine.
    async with asyncio.timeout(60):
        while len(won) < 100 or len(set(won)) < 2:
            won += await asyncio.gather(*(race(number) for number in range(len(won), len(won) + 20)))
    captured = sum(won)
    assert sum([entry.captures async for entry in service.gateway.ledger()]) == captured


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["chargedErrorRate", "dropRate"])
async def test_a_charge_whose_answer_is_lost_is_unknown_until_its_repeat(service: Service, fault: str) -> None:
    await service.set_faults(**{fault: 1})
    lost = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    assert lost.outcome is ChargeOutcome.UNKNOWN
    assert (await service.ask("GET", "/v1/charges/key"))[1]["status"] == "captured"
    await service.set_faults(**{fault: 0})
    repeat = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    assert repeat.outcome is ChargeOutcome.CAPTURED
    entry = await service.entry("key")
    assert entry is not None
    assert entry.captures == 1


async def test_an_error_before_the_charge_is_unsent_and_leaves_no_trace(service: Service) -> None:
    await service.set_faults(errorRate=1)
    charge = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
    assert charge.outcome is ChargeOutcome.UNSENT
    assert await service.entry("key") is None


@pytest.mark.parametrize("then", ["cancel", "charge"])
async def test_a_call_that_hangs_is_unknown_and_its_key_still_to_be_decided(service: Service, then: str) -> None:
    await service.set_faults(hangRate=1)
    hung = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=0.2)
    assert hung.outcome is ChargeOutcome.UNKNOWN
    assert (await service.ask("GET", "/v1/charges/key"))[1]["status"] == "pending"
    await service.set_faults(hangRate=0)
    if then == "cancel":
        charge = await service.gateway.cancel(order_id="key", timeout_s=SOON_S)
        assert charge.outcome is ChargeOutcome.CANCELLED
    else:
        charge = await service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
        assert charge.outcome is ChargeOutcome.CAPTURED


async def test_faults_come_in_the_order_of_the_seed() -> None:
    async def statuses(seed: int) -> list[int]:
        async with running(seed=seed, error_rate=0.3, charged_error_rate=0.3) as service:
            return [(await service.post_charge(f"key-{number}"))[0] for number in range(40)]

    first, again, other = await statuses(3), await statuses(3), await statuses(4)
    assert set(first) == {200, 500, 503}
    assert first == again != other


async def test_faults_are_shown_and_what_is_not_named_stays(service: Service) -> None:
    _, before = await service.ask("GET", "/v1/faults")
    await service.set_faults(errorRate=0.25, latencySigma=0.1)
    _, shown = await service.ask("GET", "/v1/faults")
    assert shown == {**before, "latencySigma": 0.1, "errorRate": 0.25}
    assert before["errorRate"] == 0


async def test_every_setting_of_the_behaviour_can_be_changed_while_it_runs(service: Service) -> None:
    _, shown = await service.ask("GET", "/v1/faults")
    for name in shown:
        status, changed = await service.ask("PUT", "/v1/faults", json={name: 1})
        assert (status, round(changed[name])) == (200, 1)
        await service.ask("PUT", "/v1/faults", json={name: 0})


@pytest.mark.parametrize(
    "bad",
    [
        {"errorRate": 1.1},
        {"dropRate": -0.1},
        {"hangRate": "1"},
        {"declineRate": True},
        {"errorRate": 0.6, "dropRate": 0.6},
    ],
)
async def test_impossible_faults_are_refused_and_change_nothing(service: Service, bad: dict[str, Any]) -> None:
    before = await service.ask("GET", "/v1/faults")
    status, problem = await service.ask("PUT", "/v1/faults", json=bad)
    assert (status, problem["code"]) == (400, "invalid_fault")
    assert await service.ask("GET", "/v1/faults") == before


# --- refunds and the ledger -----------------------------------------------------------------------------------------


async def test_refunds_are_made_once_and_never_exceed_the_capture(service: Service) -> None:
    async def refund(key: str, amount_minor: int) -> tuple[int, Any]:
        headers = {"Idempotency-Key": key}
        return await service.ask("POST", "/v1/charges/key/refunds", json={"amountMinor": amount_minor}, headers=headers)

    assert (await refund("r1", 1))[0] in (404, 409)
    await service.post_charge("key")
    first = await refund("r1", 60_000)
    assert first[0] == 200
    assert await refund("r1", 60_000) == first
    assert (await refund("r1", 1))[0] == 422
    assert (await refund("r2", 40_000))[0] in (409, 422)
    assert (await refund("r2", 39_999))[0] == 200
    entry = await service.entry("key")
    assert entry is not None
    assert (entry.status, entry.captures, entry.refunded_minor) == ("captured", 1, 99_999)


async def test_the_ledger_and_its_summary_agree_over_many_keys(service: Service) -> None:
    await service.set_faults(declineRate=0.1)
    await asyncio.gather(*(service.post_charge(f"key-{number}") for number in range(1_200)))
    await service.gateway.cancel(order_id="cancelled", timeout_s=SOON_S)
    entries = [entry async for entry in service.gateway.ledger()]
    _, summary = await service.ask("GET", "/v1/ledger/summary")
    captured = [entry for entry in entries if entry.status == "captured"]
    assert len({entry.key for entry in entries}) == summary["keys"] == 1_201
    assert {entry.captures for entry in captured} == {1}
    assert (summary["captured"], summary["captures"]) == (len(captured), len(captured))
    assert summary["capturedMinor"] == {"USD": len(captured) * PRICE.minor}
    assert (summary["cancelled"], summary["pending"]) == (1, 0)


# --- who may ask, and how -------------------------------------------------------------------------------------------


async def test_a_call_with_a_wrong_secret_is_unsent_and_charges_nothing(service: Service) -> None:
    async with SimulatorGateway(service.url, "wrong", connections_max=1) as gateway:
        charge = await gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
        cancel = await gateway.cancel(order_id="key", timeout_s=SOON_S)
    assert charge.outcome is cancel.outcome is ChargeOutcome.UNSENT
    assert await service.entry("key") is None


@pytest.mark.parametrize("authorization", [None, "", SECRET, f"Basic {SECRET}", "Bearer ", f"Bearer {SECRET}x", "\xe9"])
async def test_only_the_bearer_secret_opens_and_health_needs_none(service: Service, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with aiohttp.ClientSession(headers=headers) as http:
        for path in ("/v1/ledger", "/v1/ledger/summary", "/v1/faults", "/v1/charges/key", "/nowhere"):
            async with http.get(service.url + path) as response:
                assert response.status == 401
                assert response.content_type == "application/problem+json"
        async with http.get(service.url + "/health/live") as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"[" * 10_000, 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'{"currency":"USD"}', 400, "invalid_amount"),
        (b'{"amountMinor":0,"currency":"USD"}', 400, "invalid_amount"),
        (b'{"amountMinor":-1,"currency":"USD"}', 400, "invalid_amount"),
        (b'{"amountMinor":true,"currency":"USD"}', 400, "invalid_amount"),
        (b'{"amountMinor":9.99,"currency":"USD"}', 400, "invalid_amount"),
        (b'{"amountMinor":"999","currency":"USD"}', 400, "invalid_amount"),
        (b'{"amountMinor":1000000000000001,"currency":"USD"}', 400, "invalid_amount"),
        (b'{"amountMinor":1}', 400, "invalid_currency"),
        (b'{"amountMinor":1,"currency":"usd"}', 400, "invalid_currency"),
        (b'{"amountMinor":1,"currency":"USDX"}', 400, "invalid_currency"),
        (b'{"amountMinor":1,"currency":"QQQ"}', 400, "invalid_currency"),
        (b'{"amountMinor":1,"currency":"XXX"}', 400, "invalid_currency"),
        (b'{"amountMinor":1,"currency":"XAU"}', 400, "invalid_currency"),
        (b'{"amountMinor":1,"currency":"USD","reference":1}', 400, "invalid_reference"),
        (b'{"amountMinor":1,"currency":"USD","tip":1}', 400, "unknown_field"),
        (b" " * 16_385, 413, "body_too_large"),
    ],
)
async def test_a_bad_body_gets_its_code_and_leaves_no_trace(
    service: Service, body: bytes, status: int, code: str
) -> None:
    answered, problem = await service.ask("POST", "/v1/charges", data=body, headers={"Idempotency-Key": "key"})
    assert (answered, problem["status"], problem["code"]) == (status, status, code)
    assert await service.entry("key") is None


@pytest.mark.parametrize("key", [None, "", "k" * 256, "a b", "é", "/", "..", "-k"])
async def test_a_bad_key_is_refused(service: Service, key: str | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    status, problem = await service.ask("POST", "/v1/charges", json=BODY, headers=headers)
    assert (status, problem["code"]) == (400, "invalid_key")
    if key is not None:
        with pytest.raises(GatewayMisuse):
            await service.gateway.cancel(order_id=key, timeout_s=SOON_S)


async def test_the_longest_key_is_taken(service: Service) -> None:
    key = "k" * 255
    assert (
        await service.gateway.charge(order_id=key, amount=PRICE, timeout_s=SOON_S)
    ).outcome is ChargeOutcome.CAPTURED
    assert (await service.gateway.cancel(order_id=key, timeout_s=SOON_S)).outcome is ChargeOutcome.CAPTURED


# --- the client against answers that a gateway never gives ------------------------------------------------------------


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Serve one fixed answer to everything."""

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer_one, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"garbage\r\n\r\n", id="not-http"),
        pytest.param(http_answer("200 OK", b"captured"), id="not-json"),
        pytest.param(http_answer("200 OK", b"[]"), id="not-an-object"),
        pytest.param(http_answer("200 OK", said("captured")[:-9]), id="half-a-body"),
        pytest.param(http_answer("200 OK", said("captured", key="other")), id="another-key"),
        pytest.param(http_answer("200 OK", said("captured", amountMinor=1)), id="another-amount"),
        pytest.param(http_answer("200 OK", said("captured", currency="EUR")), id="another-currency"),
        pytest.param(http_answer("200 OK", said("captured", id=None)), id="captured-without-id"),
        pytest.param(http_answer("200 OK", said("CAPTURED")), id="another-word"),
        pytest.param(http_answer("200 OK", said("pending")), id="pending"),
        pytest.param(http_answer("201 Created", said("captured")), id="another-2xx"),
        pytest.param(http_answer("303 See Other", said("captured"), "Location: /v1/charges"), id="see-other"),
        pytest.param(http_answer("409 Conflict", said("captured")), id="conflict-that-says-captured"),
        pytest.param(http_answer("409 Conflict", b"{}"), id="conflict-without-reason"),
        pytest.param(http_answer("502 Bad Gateway", b"<html>"), id="a-proxy-that-lost-the-answer"),
        pytest.param(http_answer("504 Gateway Timeout", b"<html>"), id="a-proxy-that-waited-too-long"),
        pytest.param(http_answer("500 Internal Server Error", said("declined")), id="error-that-says-declined"),
        pytest.param(http_answer("200 OK", b'"' + b"x" * 100_000 + b'"'), id="endless-answer"),
    ],
)
async def test_whatever_is_not_said_in_so_many_words_is_unknown(answer: bytes) -> None:
    async with answering(answer) as url, SimulatorGateway(url, SECRET, connections_max=1) as gateway:
        charge = await gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
        assert charge.outcome is ChargeOutcome.UNKNOWN
        assert charge.reference is None


async def test_a_gateway_that_is_away_was_sent_nothing_and_its_ledger_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with SimulatorGateway(url, SECRET, connections_max=1) as gateway:
        charge = await gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S)
        cancel = await gateway.cancel(order_id="key", timeout_s=SOON_S)
        assert (charge.outcome, cancel.outcome) == (ChargeOutcome.UNSENT, ChargeOutcome.UNSENT)
        with pytest.raises(Unavailable):
            await anext(aiter(gateway.ledger()))


async def test_a_ledger_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    line = b'{"key":"k","status":"captured","amountMinor":1,"refundedMinor":0,"captures":1}\n'
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with (
        answering(head + b"%x\r\n%b\r\n" % (len(line), line)) as url,
        SimulatorGateway(url, SECRET, connections_max=1) as gateway,
    ):
        with pytest.raises(Unavailable):
            assert [entry.key async for entry in gateway.ledger()]


# --- stopping -------------------------------------------------------------------------------------------------------


async def test_a_stop_answers_the_charges_in_flight_and_waits_for_no_hung_call() -> None:
    async with running(latency_mean_s=0.5, latency_sigma=0) as service:
        charging = asyncio.create_task(service.gateway.charge(order_id="key", amount=PRICE, timeout_s=SOON_S))
        await service.until_pending("key")
        await service.set_faults(hangRate=1)
        hanging = asyncio.create_task(service.gateway.charge(order_id="hung", amount=PRICE, timeout_s=90))
        await service.until_pending("hung")
        begun = time.monotonic()
        service.stop.set()
        await service.task
        assert time.monotonic() - begun < 60
        assert (await charging).outcome is ChargeOutcome.CAPTURED
        assert (await hanging).outcome is ChargeOutcome.UNKNOWN
