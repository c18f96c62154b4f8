"""The simulator in Stripe's dialect over a real socket: who may ask, what its keys keep, and what its ledger says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.support.stripe_dialect import MANUAL, PUBLISHABLE_KEY, Dialect, dialect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INTENTS = "/v1/payment_intents"
VISA = {"payment_method": "pm_card_visa"}


@pytest.fixture
async def simulator() -> AsyncIterator[Dialect]:
    async with dialect() as simulator:
        yield simulator


# --- money: each way through an intent, and what the ledger says of it ----------------------------------------------

ENDS = {
    "captured": (["confirm", "capture"], {"status": "captured", "captures": 1, "voids": 0}),
    "voided": (["confirm", "cancel"], {"status": "cancelled", "captures": 0, "voids": 1}),
    "cancelled": (["cancel"], {"status": "cancelled", "captures": 0, "voids": 0}),
    "held": (["confirm"], {"status": "authorized", "captures": 0, "voids": 0}),
    "declined": (["decline"], {"status": "declined", "captures": 0, "voids": 0}),
    "declined, then captured": (["decline", "confirm", "capture"], {"status": "captured", "captures": 1}),
    "refunded": (["confirm", "capture", "refund"], {"status": "captured", "refundedMinor": 99_999}),
    "disputed": (["confirm", "capture", "dispute"], {"status": "captured", "disputes": 1, "refundedMinor": 0}),
}


async def act(simulator: Dialect, intent: Any, step: str) -> None:
    path = f"{INTENTS}/{intent['id']}/{step}"
    match step:
        case "decline":
            reply = await simulator.pay(intent, "pm_card_chargeDeclined")
            assert (reply.status, reply.code) == (402, "card_declined")
            return
        case "confirm":
            reply = await simulator.pay(intent)
        case "refund":
            reply = await simulator.ask("POST", "/v1/refunds", {"payment_intent": intent["id"]}, key="refund")
        case "dispute":
            reply = await simulator.ask("POST", f"/v1/test_helpers/payment_intents/{intent['id']}/dispute")
        case _:
            reply = await simulator.ask("POST", path, key=f"{intent['id']}:{step}")
    assert reply.status == 200, reply.body


@pytest.mark.parametrize(("steps", "expected"), ENDS.values(), ids=ENDS.keys())
async def test_the_ledger_names_the_order_and_says_what_became_of_its_money(
    simulator: Dialect, steps: list[str], expected: dict[str, Any]
) -> None:
    intent = await simulator.intent(**{"metadata[order_id]": "order-1"})
    for step in steps:
        await act(simulator, intent, step)
    line = (await simulator.ledger())[intent["id"]]
    assert (line["intent"], line["orderId"], line["currency"]) == (intent["id"], "order-1", "USD")
    assert {name: line[name] for name in expected} == expected


async def test_a_part_is_captured_and_refunded_in_the_currencys_own_unit(simulator: Dialect) -> None:
    intent = await simulator.intent(amount=50_000, currency="isk")
    assert (await simulator.pay(intent)).status == 200
    path = f"{INTENTS}/{intent['id']}/capture"
    assert (await simulator.ask("POST", path, {"amount_to_capture": 30_000})).body["amount_received"] == 30_000
    refund = {"payment_intent": intent["id"], "amount": 10_000}
    assert (await simulator.ask("POST", "/v1/refunds", refund)).body["status"] == "succeeded"
    line = (await simulator.ledger())[intent["id"]]
    assert (line["amountMinor"], line["refundedMinor"], line["currency"]) == (300, 100, "ISK")
    too_much = await simulator.ask("POST", "/v1/refunds", {"payment_intent": intent["id"], "amount": 20_100})
    assert too_much.status == 400


# --- idempotency keys -----------------------------------------------------------------------------------------------


async def test_a_key_keeps_its_answer_byte_for_byte_and_says_so(simulator: Dialect) -> None:
    first = await simulator.ask("POST", INTENTS, MANUAL, key="k")
    again = await simulator.ask("POST", INTENTS, MANUAL, key="k")
    assert again.body == first.body
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Original-Request"] == first.headers["Request-Id"] != again.headers["Request-Id"]


@pytest.mark.parametrize(
    ("path", "form", "said"),
    [
        (INTENTS, {**MANUAL, "amount": 1}, "same parameters"),
        (INTENTS, {**MANUAL, "metadata[a]": "b"}, "same parameters"),
        ("/v1/refunds", MANUAL, "same endpoint"),
    ],
)
async def test_a_key_fits_one_endpoint_and_its_parameters(
    simulator: Dialect, path: str, form: dict[str, Any], said: str
) -> None:
    await simulator.intent(key="k")
    refused = await simulator.ask("POST", path, form, key="k")
    assert (refused.status, refused.body["error"]["type"]) == (400, "idempotency_error")
    assert said in refused.body["error"]["message"]
    assert len(await simulator.ledger()) == 1


async def test_a_key_keeps_a_500_although_the_money_was_taken(simulator: Dialect) -> None:
    intent = await simulator.intent()
    await simulator.pay(intent)
    await simulator.service.set_faults(chargedErrorRate=1)
    path = f"{INTENTS}/{intent['id']}/capture"
    lost = await simulator.ask("POST", path, key="capture")
    await simulator.service.set_faults(chargedErrorRate=0)
    again = await simulator.ask("POST", path, key="capture")
    assert (lost.status, again.status) == (500, 500)
    assert again.headers["Stripe-Should-Retry"] == "false"
    assert (await simulator.ledger())[intent["id"]]["captures"] == 1
    assert (await simulator.ask("GET", f"{INTENTS}/{intent['id']}")).body["status"] == "succeeded"


async def test_a_declined_try_stays_declined_under_its_key(simulator: Dialect) -> None:
    intent = await simulator.intent()
    path, declined = f"{INTENTS}/{intent['id']}/confirm", {"payment_method": "pm_card_chargeDeclinedInsufficientFunds"}
    first = await simulator.ask("POST", path, declined, key="confirm")
    again = await simulator.ask("POST", path, declined, key="confirm")
    assert first.status == again.status == 402
    assert first.body == again.body
    assert first.body["error"]["decline_code"] == "insufficient_funds"
    assert first.body["error"]["payment_intent"]["status"] == "requires_payment_method"


async def test_a_call_that_was_wrong_keeps_nothing(simulator: Dialect) -> None:
    assert (await simulator.ask("POST", INTENTS, {**MANUAL, "currency": "qqq"}, key="k")).status == 400
    assert (await simulator.ask("POST", INTENTS, MANUAL, key="k")).status == 200


async def test_a_key_in_use_is_409_and_two_calls_make_one_intent(simulator: Dialect) -> None:
    await simulator.service.set_faults(latencyMeanS=0.4, latencySigma=0)
    form = {**MANUAL, **VISA, "confirm": "true"}
    first, second = await asyncio.gather(*(simulator.ask("POST", INTENTS, form, key="k") for _ in range(2)))
    assert sorted((first.status, second.status)) == [200, 409]
    refused = first if first.status == 409 else second
    assert (refused.code, refused.headers["Stripe-Should-Retry"]) == ("idempotency_key_in_use", "true")
    assert len(await simulator.ledger()) == 1


async def test_a_key_is_forgotten_after_its_lifetime() -> None:
    async with dialect(key_lifetime_s=0.001) as simulator, asyncio.timeout(60):
        first = await simulator.intent(key="k")
        while (await simulator.intent(key="k"))["id"] == first["id"]:
            pass


async def test_the_key_of_a_cancelled_intent_gives_that_intent_and_no_other(simulator: Dialect) -> None:
    intent = await simulator.intent(key="k")
    await simulator.ask("POST", f"{INTENTS}/{intent['id']}/cancel")
    again = await simulator.intent(key="k")
    assert again["id"] == intent["id"]
    refused = await simulator.pay(again)
    assert (refused.status, refused.code) == (400, "payment_intent_unexpected_state")


# --- who may ask ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, "Bearer ", "Bearer wrong", "Basic !", "Basic d3Jvbmc6", "\xe9"])
async def test_a_call_without_the_secret_is_401_and_does_nothing(simulator: Dialect, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with simulator.http.post(simulator.service.url + INTENTS, data=MANUAL, headers=headers) as response:
        assert response.status == 401
        assert (await response.json())["error"]["type"] == "invalid_request_error"
    assert await simulator.ledger() == {}


async def test_a_page_may_confirm_and_read_its_own_intent_and_nothing_else(simulator: Dialect) -> None:
    intent, other = await simulator.intent(), await simulator.intent()
    publishable = {"Authorization": f"Bearer {PUBLISHABLE_KEY}"}
    wrong = await simulator.pay({**intent, "client_secret": other["client_secret"]})
    assert wrong.status == 400
    assert (await simulator.pay({**intent, "client_secret": ""})).status == 400
    for method, path in (("POST", INTENTS), ("POST", f"{INTENTS}/{intent['id']}/capture"), ("GET", INTENTS)):
        refused = await simulator.ask(method, path, MANUAL if method == "POST" else {}, **publishable)
        assert (refused.status, refused.code) == (403, "secret_key_required")
    paid = await simulator.pay(intent)
    assert (paid.status, paid.body["status"]) == (200, "requires_capture")
    assert "metadata" not in paid.body
    seen = await simulator.ask(
        "GET", f"{INTENTS}/{intent['id']}", {"client_secret": intent["client_secret"]}, **publishable
    )
    assert seen.body["status"] == "requires_capture"


# --- limits, faults and locks ---------------------------------------------------------------------------------------


async def test_calls_above_the_limit_of_an_endpoint_are_429_and_do_nothing() -> None:
    async with dialect(rate_limit_per_s=3) as simulator:
        replies = await asyncio.gather(*(simulator.ask("POST", INTENTS, MANUAL, key=f"{n}") for n in range(20)))
        refused = [reply for reply in replies if reply.status == 429]
        assert refused
        assert {reply.headers["Retry-After"] for reply in refused} == {"1"}
        assert {reply.headers["Stripe-Rate-Limited-Reason"] for reply in refused} == {"endpoint-rate"}
        assert len(await simulator.ledger()) == len(replies) - len(refused)


@pytest.mark.parametrize(
    ("faults", "status", "done"),
    [
        ({"errorRate": 1}, 503, False),
        ({"rejectRate": 1}, 429, False),
        ({"cutRate": 1}, None, False),
        ({"dropRate": 1}, None, True),
        ({"chargedErrorRate": 1}, 500, True),
        ({"outageS": 60}, None, False),
    ],
)
async def test_each_fault_does_what_it_says_and_no_more(
    simulator: Dialect, faults: dict[str, float], status: int | None, *, done: bool
) -> None:
    await simulator.service.set_faults(**faults)
    reply = None
    with contextlib.suppress(aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        reply = await simulator.ask("POST", INTENTS, {**MANUAL, **VISA, "confirm": "true"}, key="k")
    assert (reply.status if reply else None) == status
    assert [line["status"] for line in (await simulator.ledger()).values()] == ["authorized"] * done


async def test_the_answer_that_a_key_keeps_is_lost_like_any_other(simulator: Dialect) -> None:
    kept = await simulator.ask("POST", INTENTS, MANUAL, key="k")
    await simulator.service.set_faults(dropRate=1)
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await simulator.ask("POST", INTENTS, MANUAL, key="k")
    await simulator.service.set_faults(dropRate=0)
    assert (await simulator.ask("POST", INTENTS, MANUAL, key="k")).body == kept.body


async def test_a_slow_call_takes_the_money_after_its_client_left(simulator: Dialect) -> None:
    intent = await simulator.intent()
    await simulator.pay(intent)
    await simulator.service.set_faults(slowRate=1, slowS=0.5)
    path = f"{INTENTS}/{intent['id']}/capture"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await simulator.ask("POST", path, key="capture")
    assert (await simulator.ledger())[intent["id"]]["status"] == "authorized"
    await simulator.service.set_faults(slowRate=0)
    async with asyncio.timeout(60):
        while (await simulator.ask("POST", path, key="capture")).status == 409:
            await asyncio.sleep(0.05)
    assert (await simulator.ledger())[intent["id"]]["captures"] == 1


async def test_a_cancel_while_a_confirm_is_at_work_is_429_and_changes_nothing(simulator: Dialect) -> None:
    intent = await simulator.intent()
    await simulator.service.set_faults(latencyMeanS=3600, latencySigma=0)
    path = f"{INTENTS}/{intent['id']}/confirm"
    paying = [asyncio.create_task(simulator.ask("POST", path, VISA, key="k")) for _ in range(2)]
    done, _ = await asyncio.wait(paying, return_when=asyncio.FIRST_COMPLETED)
    assert done.pop().result().code == "idempotency_key_in_use"  # so the other one has begun
    refused = await simulator.ask("POST", f"{INTENTS}/{intent['id']}/cancel")
    assert (refused.status, refused.code) == (429, "lock_timeout")
    for task in paying:
        task.cancel()
    await asyncio.gather(*paying, return_exceptions=True)
    assert (await simulator.ledger())[intent["id"]]["status"] == "pending"


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"amount": ""}, "parameter_missing"),
        ({"amount": 0}, "parameter_invalid_integer"),
        ({"amount": -5}, "parameter_invalid_integer"),
        ({"amount": "9.99"}, "parameter_invalid_integer"),
        ({"amount": 100_000_000}, "amount_too_large"),
        ({"currency": "qqq"}, None),
        ({"currency": "isk", "amount": 150}, None),
        ({"currency": "kwd", "amount": 15}, None),
        ({"capture_method": "later"}, None),
        ({"metadata": "x"}, None),
        ({"payment_method": "pm_card_unknown"}, "resource_missing"),
        ({"tip": 1}, "parameter_unknown"),
        ({"confirm": "true"}, "payment_intent_unexpected_state"),
    ],
)
async def test_a_wrong_parameter_is_400_with_its_code_and_opens_nothing(
    simulator: Dialect, changes: dict[str, Any], code: str | None
) -> None:
    refused = await simulator.ask("POST", INTENTS, {**MANUAL, **changes})
    assert (refused.status, refused.code) == (400, code)
    assert await simulator.ledger() == {}


async def test_pages_of_a_list_hold_each_intent_once_and_search_finds_by_metadata(simulator: Dialect) -> None:
    made = [(await simulator.intent(**{"metadata[order_id]": f"order-{n}"}))["id"] for n in range(7)]
    seen: list[str] = []
    more, after = True, {}
    while more:
        page = (await simulator.ask("GET", INTENTS, {"limit": 3, **after})).body
        seen += [intent["id"] for intent in page["data"]]
        more, after = page["has_more"], {"starting_after": seen[-1]}
    assert seen == made[::-1]
    found = await simulator.ask("GET", f"{INTENTS}/search", {"query": "metadata['order_id']:'order-4'"})
    assert [intent["id"] for intent in found.body["data"]] == [made[4]]
    await simulator.service.set_faults(searchLagS=60)
    late = await simulator.ask("GET", f"{INTENTS}/search", {"query": "metadata['order_id']:'order-4'"})
    assert late.body["data"] == []


# --- Checkout sessions ----------------------------------------------------------------------------------------------

SESSIONS = "/v1/checkout/sessions"
SESSION = {
    "mode": "payment",
    "success_url": "http://127.0.0.1/paid?session={CHECKOUT_SESSION_ID}",
    "cancel_url": "http://127.0.0.1/back",
    "line_items[0][quantity]": 2,
    "line_items[0][price_data][currency]": "usd",
    "line_items[0][price_data][unit_amount]": 50_000,
    "line_items[0][price_data][product_data][name]": "A phone",
    "payment_intent_data[capture_method]": "manual",
    "payment_intent_data[metadata][order_id]": "order-1",
}


async def test_a_buyer_pays_in_the_hosted_page_and_comes_back(simulator: Dialect) -> None:
    session = (await simulator.ask("POST", SESSIONS, SESSION)).body
    assert (session["status"], session["payment_intent"], session["amount_total"]) == ("open", None, 100_000)
    async with simulator.http.get(session["url"]) as response:
        assert (response.status, response.content_type) == (200, "text/html")
        assert 'href="http://127.0.0.1/back"' in await response.text()
    declined = {"payment_method": "pm_card_chargeDeclined"}
    async with simulator.http.post(session["url"], data=declined, allow_redirects=False) as response:
        assert response.status == 402
    async with simulator.http.post(session["url"], data=VISA, allow_redirects=False) as response:
        assert response.status == 303
        assert response.headers["Location"] == f"http://127.0.0.1/paid?session={session['id']}"
    paid = (await simulator.ask("GET", f"{SESSIONS}/{session['id']}", {"expand[0]": "payment_intent"})).body
    assert (paid["status"], paid["payment_intent"]["status"]) == ("complete", "requires_capture")
    (line,) = (await simulator.ledger()).values()
    assert (line["status"], line["orderId"], line["amountMinor"]) == ("authorized", "order-1", 100_000)
    async with simulator.http.post(session["url"], data=VISA) as response:
        assert response.status == 400


async def test_an_expired_session_takes_no_money(simulator: Dialect) -> None:
    session = (await simulator.ask("POST", SESSIONS, SESSION)).body
    expired = await simulator.ask("POST", f"{SESSIONS}/{session['id']}/expire")
    assert expired.body["status"] == "expired"
    refused = await simulator.ask("POST", f"/v1/test_helpers/checkout/sessions/{session['id']}/pay", VISA)
    assert refused.status == 400
    assert (await simulator.ask("POST", f"{SESSIONS}/{session['id']}/expire")).status == 400
    assert await simulator.ledger() == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "subscription"},
        {"success_url": ""},
        {"expires_at": 1},
        {"line_items[0][quantity]": "x"},
        {"line_items[0][price_data][currency]": "qqq"},
        {"line_items": "x"},
    ],
)
async def test_a_wrong_session_is_400(simulator: Dialect, changes: dict[str, Any]) -> None:
    form = {name: value for name, value in SESSION.items() if not (name.startswith("line") and "line_items" in changes)}
    assert (await simulator.ask("POST", SESSIONS, {**form, **changes})).status == 400
