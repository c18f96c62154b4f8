"""The Stripe adapter over a real socket, against the simulator's dialect: no misbehaviour leads to a wrong definite answer."""

import asyncio
import json
import time
import uuid
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from pydantic import SecretStr

from flashsale.adapters.payments.stripe import StripeGateway
from flashsale.adapters.payments.stripe_pages import StripePages
from flashsale.domain.money import Money
from flashsale.domain.payments import ChargeOutcome, Intent, IntentState, NoAnswer, NoAnswerKind, Refund, RefundState
from flashsale.settings.stripe import StripeSettings
from flashsale.usecases.turns import Breaker, Turns
from tests.support.gateway import SECRET, SOON_S, running

PRICE = Money(minor=99_999, currency="USD")
FAULTS = ("errorRate", "chargedErrorRate", "dropRate", "hangRate", "cutRate", "rejectRate")
SHORT_S = 1.0


def order(age_s=0.0):
    """Make an order's id, a UUIDv7."""
    head = int((time.time() - age_s) * 1000).to_bytes(6, "big") + uuid.uuid4().bytes[6:]
    return uuid.UUID(bytes=head[:6] + bytes([0x70 | head[6] & 15]) + head[7:])


@asynccontextmanager
async def stripe(url, turns=None, **changes):
    settings = StripeSettings.model_construct(
        **{"secret_key": SecretStr(SECRET), "base_url": url, "payment_method": "pm_card_visa", **changes}
    )
    async with StripeGateway(settings, connections_max=50, turns=turns) as gateway:
        yield gateway


@pytest.fixture
async def simulator():
    async with running(rate_limit_per_s=0, account_limit_per_s=0) as service:
        yield service


async def money(service):
    """Return the amounts taken and given back, by the simulator's own books."""
    entries = [entry async for entry in service.gateway.ledger()]
    taken = [entry for entry in entries if entry.captures]
    assert all(entry.captures == 1 for entry in taken)
    return sum(entry.amount_minor for entry in taken), sum(entry.refunded_minor for entry in taken)


async def prepared(gateway, call, order_id):
    """Make the intent that a call is about, if it is about one."""
    if call in ("capture", "cancel"):
        until_s = asyncio.get_running_loop().time() + SOON_S
        return (await gateway._create(order_id, 1, PRICE, until_s, confirm=True)).reference
    if call == "refund":
        return (await gateway.charge(order_id=order_id, amount=PRICE, timeout_s=SOON_S)).intent
    return None


async def ask(gateway, call, order_id, intent, timeout_s):
    if call in ("charge", "capture"):
        return await gateway.charge(order_id=order_id, reference=intent, amount=PRICE, timeout_s=timeout_s)
    if call == "cancel":
        return await gateway.cancel(order_id=order_id, reference=intent, amount=PRICE, timeout_s=timeout_s)
    if call == "open_intent":
        return await gateway.open_intent(order_id=order_id, number=1, amount=PRICE, timeout_s=timeout_s)
    return await gateway.refund(key=f"{order_id}:refund:1", reference=intent, amount=PRICE, timeout_s=timeout_s)


SETTLED = {
    "charge": (ChargeOutcome.CAPTURED, (99_999, 0)),
    "capture": (ChargeOutcome.CAPTURED, (99_999, 0)),
    "cancel": (ChargeOutcome.CANCELLED, (0, 0)),
    "open_intent": (IntentState.OPEN, (0, 0)),
    "refund": (RefundState.SUCCEEDED, (99_999, 99_999)),
}


def said(answer):
    """Return the one word of an answer, of whatever kind."""
    if isinstance(answer, NoAnswer):
        return answer.kind
    return answer.state if isinstance(answer, Intent | Refund) else answer.outcome


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", SETTLED)
async def test_whatever_goes_wrong_the_answer_is_not_wrong_and_the_next_call_settles_it(simulator, call, fault):
    order_id = order()
    async with stripe(simulator.url) as gateway:
        intent = await prepared(gateway, call, order_id)
        await simulator.set_faults(**{fault: 1})
        first = await ask(gateway, call, order_id, intent, SHORT_S)
        if fault == "rejectRate":
            assert said(first) == "unsent"
        elif fault == "chargedErrorRate":
            assert said(first) in {"unknown", SETTLED[call][0]}
        else:
            assert said(first) == "unknown", "it was sent, and nobody said what became of it"
        await simulator.set_faults(**{fault: 0})
        then = await ask(gateway, call, order_id, intent, SOON_S)
        assert (said(then), await money(simulator)) == SETTLED[call]


@pytest.mark.parametrize("call", ["charge", "cancel", "open_intent", "look_up", "refund"])
async def test_a_wrong_secret_ends_nothing(simulator, call):
    order_id = order()
    async with stripe(simulator.url, secret_key=SecretStr("sk_test_wrong")) as gateway:
        for _ in range(5):
            if call == "charge":
                answer = await gateway.charge(order_id=order_id, amount=PRICE, timeout_s=SOON_S)
                assert answer.outcome is ChargeOutcome.UNSENT
            elif call == "cancel":
                answer = await gateway.cancel(order_id=order_id, amount=PRICE, timeout_s=SOON_S)
                assert answer.outcome is ChargeOutcome.UNSENT
            elif call == "look_up":
                for reference in (None, "pi_1"):
                    answer = await gateway.look_up(order_id=order_id, reference=reference, timeout_s=SOON_S)
                    assert (type(answer), answer.kind) == (NoAnswer, NoAnswerKind.UNSENT)
            else:
                answer = await ask(gateway, call, order_id, "pi_1", SOON_S)
                assert (type(answer), answer.kind) == (NoAnswer, NoAnswerKind.UNSENT)


STRIPES_WORD = json.dumps({"error": {"type": "invalid_request_error", "message": "no"}})


@asynccontextmanager
async def answering(status, body):
    """Answer every call so, as a proxy before Stripe may do."""

    async def handle(_):
        return web.Response(status=status, text=body)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        *((status, STRIPES_WORD, "unsent") for status in (401, 403, 409, 429)),
        *((status, body, "unknown") for status in (302, 400, 404, 405, 413) for body in ("<html>no</html>", "{}")),
        *((status, STRIPES_WORD, "refused") for status in (400, 404)),
    ],
)
async def test_only_stripes_own_word_refuses_a_call_permanently(status, body, kind):
    """The payment of a refund exists, so that it is not found says that the key is another account's."""
    async with answering(status, body) as url, stripe(url) as gateway:
        for call in ("look_up", "refund", "refunds"):
            if call == "refund":
                answer = await ask(gateway, call, order(), "pi_1", SOON_S)
            elif call == "refunds":
                answer = await gateway.refunds(reference="pi_1", timeout_s=SOON_S)
            else:
                answer = await gateway.look_up(order_id=None, reference="pi_1", timeout_s=SOON_S)
            of_refund = (call, status, body) in {(one, 404, STRIPES_WORD) for one in ("refund", "refunds")}
            assert said(answer) == ("unsent" if of_refund else kind), call


FOREIGN: dict[str, dict[str, object]] = {
    "cs_setup": {
        "object": "checkout.session", "mode": "setup", "amount_total": None, "currency": None, "status": "complete",
        "payment_intent": None,
    },
    "cs_state": {
        "object": "checkout.session", "amount_total": 1, "currency": "usd", "status": "paused", "payment_intent": None,
    },
    "pi_currency": {
        "object": "payment_intent", "amount": 1, "currency": "clf", "status": "succeeded", "latest_charge": None,
    },
    "pi_state": {"object": "payment_intent", "amount": 1, "currency": "usd", "status": "asleep", "latest_charge": None},
}  # fmt: skip
"""What others who share the account have, and nobody here can read."""


@pytest.mark.parametrize("reference", FOREIGN)
@pytest.mark.parametrize("ours", [False, True])
async def test_what_others_have_that_cannot_be_read_is_of_no_order_and_no_outage(reference, ours):
    metadata = {"order_id": str(order())} if ours else {}
    body = json.dumps({"id": reference, "created": int(time.time()), "metadata": metadata, **FOREIGN[reference]})
    breaker = Breaker(failures=1, pause_s=60, pause_max_s=60)
    turns = Turns("stripe", Nobody(), breaker, rate_per_s=0, wait_s=1)
    async with answering(200, body) as url, stripe(url, turns) as gateway:
        pages = StripePages(gateway, StripeSettings.model_construct(return_url="https://shop.example/paid"))
        answer = await pages.look_up(order_id=None, reference=reference, timeout_s=SOON_S)
    assert (said(answer), breaker.is_open) == (("unknown", True) if ours else ("refused", False))


async def test_a_refused_connection_was_not_sent(simulator):
    url = simulator.url
    simulator.stop.set()
    await simulator.task
    async with stripe(url) as gateway:
        for _ in range(5):
            answer = await gateway.charge(order_id=order(), amount=PRICE, timeout_s=SOON_S)
            assert answer.outcome is ChargeOutcome.UNSENT


async def test_a_decline_is_definite_and_a_wait_for_the_bank_is_not(simulator):
    order_id = order()
    async with stripe(simulator.url, payment_method="pm_card_chargeDeclinedInsufficientFunds") as gateway:
        for _ in range(2):
            answer = await gateway.charge(order_id=order_id, amount=PRICE, timeout_s=SOON_S)
            assert (answer.outcome, answer.reference) == (ChargeOutcome.DECLINED, "insufficient_funds")
    async with stripe(simulator.url, payment_method="pm_card_threeDSecure2Required") as gateway:
        assert (await gateway.charge(order_id=order(), amount=PRICE, timeout_s=SOON_S)).outcome is ChargeOutcome.UNKNOWN


async def test_a_decline_whose_answer_was_a_500_can_not_be_paid_any_more(simulator):
    order_id = order()
    async with stripe(simulator.url, payment_method="pm_card_chargeDeclined") as gateway:
        await simulator.set_faults(chargedErrorRate=1)
        await gateway.charge(order_id=order_id, amount=PRICE, timeout_s=SOON_S)
        await simulator.set_faults(chargedErrorRate=0)
        answer = await gateway.charge(order_id=order_id, amount=PRICE, timeout_s=SOON_S)
        assert answer.outcome in {ChargeOutcome.DECLINED, ChargeOutcome.CANCELLED}
        found = await gateway.look_up(order_id=order_id, timeout_s=SOON_S)
        assert found.state is IntentState.CANCELLED


async def test_a_cancel_of_what_was_taken_says_so_and_a_cancelled_order_is_never_charged(simulator):
    taken, never = order(), order()
    async with stripe(simulator.url) as gateway:
        await gateway.charge(order_id=taken, amount=PRICE, timeout_s=SOON_S)
        cancelled = await gateway.cancel(order_id=taken, amount=PRICE, timeout_s=SOON_S)
        assert cancelled.outcome is ChargeOutcome.CAPTURED
        assert (await gateway.cancel(order_id=never, amount=PRICE, timeout_s=SOON_S)).outcome is ChargeOutcome.CANCELLED
        late = await gateway.charge(order_id=never, amount=PRICE, timeout_s=SOON_S)
        assert late.outcome in {ChargeOutcome.UNSENT, ChargeOutcome.CANCELLED, ChargeOutcome.UNKNOWN}
    assert await money(simulator) == (99_999, 0)


@pytest.mark.parametrize("call", ["charge", "cancel", "cancel what is found"])
async def test_another_amount_is_never_a_capture(simulator, call):
    order_id = order()
    async with stripe(simulator.url) as gateway:
        opened = await gateway.charge(order_id=order_id, amount=PRICE, timeout_s=SOON_S)
        ask = gateway.charge if call == "charge" else gateway.cancel
        named = None if call == "cancel what is found" else opened.intent
        for other in (Money(minor=1_000, currency="USD"), Money(minor=99_999, currency="EUR")):
            answer = await ask(order_id=order_id, reference=named, amount=other, timeout_s=SOON_S)
            assert (answer.outcome, answer.intent) == (ChargeOutcome.UNKNOWN, opened.intent)
    assert await money(simulator) == (99_999, 0)


async def test_a_part_that_was_captured_in_between_is_no_capture(simulator):
    order_id = order()
    async with stripe(simulator.url) as gateway:
        until_s = asyncio.get_running_loop().time() + SOON_S
        held = await gateway._create(order_id, 1, PRICE, until_s, confirm=True)
        part = {"amount_to_capture": 100}
        assert (await simulator.ask("POST", f"/v1/payment_intents/{held.reference}/capture", data=part))[0] == 200
        answer = await gateway._capture(order_id, held, until_s)
        assert (answer.outcome, answer.intent) == (ChargeOutcome.UNKNOWN, held.reference)
        again = await gateway.cancel(order_id=order_id, reference=held.reference, amount=PRICE, timeout_s=SOON_S)
        assert again.outcome is ChargeOutcome.UNKNOWN


async def test_the_intent_of_another_order_is_neither_captured_nor_named(simulator):
    async with stripe(simulator.url) as gateway:
        opened = await gateway.charge(order_id=order(), amount=PRICE, timeout_s=SOON_S)
        answer = await gateway.charge(order_id=order(), reference=opened.intent, amount=PRICE, timeout_s=SOON_S)
        assert (answer.outcome, answer.intent) == (ChargeOutcome.UNKNOWN, None)


async def test_after_the_lifetime_of_its_keys_an_order_is_only_looked_up(simulator):
    old = order(age_s=90_000)
    async with stripe(simulator.url) as gateway:
        answer = await gateway.charge(order_id=old, amount=PRICE, timeout_s=SOON_S)
        assert answer.outcome is ChargeOutcome.UNKNOWN
        assert await money(simulator) == (0, 0)
        first = await gateway.charge(order_id=old, amount=PRICE, timeout_s=SOON_S, first=True)
        assert first.outcome is ChargeOutcome.CAPTURED, "nothing was asked before, so no key was used"
        again = await gateway.charge(order_id=old, amount=PRICE, timeout_s=SOON_S)
        assert again.outcome is ChargeOutcome.CAPTURED
    assert await money(simulator) == (99_999, 0)


async def test_many_at_once_take_each_order_once(simulator):
    orders = [order() for _ in range(20)]
    async with stripe(simulator.url) as gateway:
        await simulator.set_faults(dropRate=0.2, chargedErrorRate=0.2, cutRate=0.2)
        for _ in range(4):
            await asyncio.gather(
                *(gateway.charge(order_id=one, amount=PRICE, timeout_s=SHORT_S) for one in orders for _ in range(2))
            )
        await simulator.set_faults(dropRate=0, chargedErrorRate=0, cutRate=0)
        answers = [await gateway.charge(order_id=one, amount=PRICE, timeout_s=SOON_S) for one in orders]
    assert {answer.outcome for answer in answers} == {ChargeOutcome.CAPTURED}
    assert await money(simulator) == (len(orders) * 99_999, 0)


class Nobody:
    """Other processes, which nobody tells."""

    async def rest(self, provider, pause_s):
        pass

    async def back(self, provider):
        pass


async def test_a_provider_that_is_away_is_not_asked_on(simulator):
    url = simulator.url
    simulator.stop.set()
    await simulator.task
    breaker = Breaker(failures=3, pause_s=60, pause_max_s=60)
    async with stripe(url, Turns("stripe", Nobody(), breaker, rate_per_s=0, wait_s=1)) as gateway:
        answers = [await gateway.charge(order_id=order(), amount=PRICE, timeout_s=SOON_S) for _ in range(4)]
    assert [answer.reference for answer in answers[3:]] == ["not its turn"]
    assert answers[3].retry_after_s == pytest.approx(60, abs=5)
