"""Calls that certainly never reached the payment gateway: they are no tries, and end no order however many there are."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress

import pytest

from flashsale.adapters.payments.simulator import MISUSE, NOT_NOW, SimulatorGateway
from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeAnswer as Answer
from flashsale.domain.payments import ChargeOutcome
from tests.support.certificates import certificate
from tests.support.charging import Gateway, charging, free, status, waiting_order
from tests.support.gateway import SECRET, http_answer, running, said

PRICE = Money(minor=99_999, currency="USD")
TRIES_MAX = 2


@asynccontextmanager
async def serving(serve, *, tls=None):
    """Serve each connection with `serve`; every one is closed at the end."""
    handlers = set()

    async def handle(reader, writer):
        handlers.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    async with listener:
        yield f"http{'s' if tls else ''}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    await asyncio.gather(*handlers, return_exceptions=True)


def answering(answer, *, whole=True):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer if whole else answer[: len(answer) // 2])
        await writer.drain()

    return serve


async def hang_up(reader, _):
    await reader.readuntil(b"\r\n\r\n")


async def hang(reader, _):
    await reader.read()


@asynccontextmanager
async def refusing_connections(_):
    # No server listens there, and none of another test begins to.
    yield "http://127.0.0.1:1"


@asynccontextmanager
async def without_name(_):
    yield "http://gateway.invalid:9100"


@asynccontextmanager
async def with_strange_certificate(folder):
    certificate(folder, "strange")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "strange.crt", folder / "strange.key")
    async with serving(hang, tls=context) as url:
        yield url


@asynccontextmanager
async def plain_instead_of_tls(_):
    async with serving(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as url:
        yield url.replace("http", "https")


@asynccontextmanager
async def silent_in_the_handshake(_):
    async with serving(hang) as url:
        yield url.replace("http", "https")


def status_of(code):
    @asynccontextmanager
    async def answer(_):
        # Even one that says something about the key: what was not looked at was not decided.
        async with serving(answering(http_answer(f"{code} Whatever", said("declined"), "Location: /"))) as url:
            yield url

    return answer


UNSENT = {
    "connection refused": refusing_connections,
    "name does not resolve": without_name,
    "certificate not trusted": with_strange_certificate,
    "no TLS there": plain_instead_of_tls,
    "no answer in the handshake": silent_in_the_handshake,
    **{f"status {code}": status_of(code) for code in sorted(MISUSE | NOT_NOW)},
}


def sent_and(serve):
    @asynccontextmanager
    async def way(_):
        async with serving(serve) as url:
            yield url

    return way


MAYBE = {
    "no answer": sent_and(hang),
    "hangs up": sent_and(hang_up),
    "half an answer": sent_and(answering(http_answer("200 OK", said("captured")), whole=False)),
    "not HTTP": sent_and(answering(b"garbage\r\n\r\n")),
    "a page of a proxy": sent_and(answering(http_answer("200 OK", b"<html>"))),
    **{
        f"status {code}": sent_and(answering(http_answer(f"{code} Whatever", b"{}")))
        for code in (201, 204, 303, 408, 409, 500, 502, 504, 520, 599)
    },
}


@pytest.mark.parametrize("kind", UNSENT)
async def test_what_certainly_never_reached_the_gateway_is_unsent(tmp_path, kind):
    async with UNSENT[kind](tmp_path) as url, SimulatorGateway(url, SECRET, connections_max=1) as gateway:
        charge = await gateway.charge(order_id="key", amount=PRICE, timeout_s=0.5)
        cancel = await gateway.cancel(order_id="key", timeout_s=0.5)
    assert charge.outcome is cancel.outcome is ChargeOutcome.UNSENT
    assert charge.reference
    assert SECRET not in charge.reference


@pytest.mark.parametrize("kind", MAYBE)
async def test_what_may_have_reached_the_gateway_is_unknown(tmp_path, kind):
    async with MAYBE[kind](tmp_path) as url, SimulatorGateway(url, SECRET, connections_max=1) as gateway:
        charge = await gateway.charge(order_id="key", amount=PRICE, timeout_s=0.5)
    assert charge.outcome is ChargeOutcome.UNKNOWN


async def test_a_call_that_waits_for_a_connection_too_long_is_unsent(tmp_path):
    async with MAYBE["no answer"](tmp_path) as url, SimulatorGateway(url, SECRET, connections_max=1) as gateway:
        first = asyncio.create_task(gateway.charge(order_id="first", amount=PRICE, timeout_s=1))
        await asyncio.sleep(0)
        second = await gateway.charge(order_id="second", amount=PRICE, timeout_s=0.2)
        assert second.outcome is ChargeOutcome.UNSENT
        assert (await first).outcome is ChargeOutcome.UNKNOWN


@pytest.mark.parametrize("kind", ["connection refused", "wrong secret", "status 503"])
async def test_calls_that_were_not_sent_never_end_an_order(services, db, tmp_path, kind):
    order_id, _ = await waiting_order(services)
    async with running() as simulator:
        away = UNSENT.get(kind) or sent_and(None)
        if kind == "wrong secret":
            async with SimulatorGateway(simulator.url, "wrong", connections_max=1) as gateway:
                await try_often(services, gateway, order_id)
        else:
            async with away(tmp_path) as url, SimulatorGateway(url, SECRET, connections_max=1) as gateway:
                await try_often(services, gateway, order_id)
        assert await status(services, order_id) is OrderStatus.PROCESSING_PAYMENT
        assert await db.fetchval("SELECT due_at > clock_timestamp() FROM orders")
        assert await db.fetchval("SELECT array_agg(outcome) FROM payment_attempts") == ["unsent"], "one is kept"
        assert await free(db) == 9
        await charging(services, simulator.gateway, tries_max=TRIES_MAX)(order_id)
        assert await status(services, order_id) is OrderStatus.CONFIRMED
        assert (await simulator.entry(str(order_id))).captures == 1


async def try_often(services, gateway, order_id):
    for _ in range(TRIES_MAX * 4):
        await charging(services, gateway, tries_max=TRIES_MAX, retry_s=1)(order_id)


NAMES = ["UNSENT", "UNKNOWN", "UNSENT", "UNSENT", "UNKNOWN", "UNSENT", "CANCELLED"]


async def test_tries_are_those_that_may_have_reached_the_gateway_whatever_lies_between_them(services, db):
    order_id, _ = await waiting_order(services)

    class Gateway:
        def __init__(self, *outcomes):
            self.outcomes = list(outcomes)
            self.asked = []

        async def charge(self, *, order_id, reference, amount, timeout_s, first):
            self.asked.append("charge")
            return self.answer()

        async def cancel(self, *, order_id, reference, amount, timeout_s):
            self.asked.append("cancel")
            return self.answer()

        def answer(self):
            return Answer(outcome=self.outcomes.pop(0), reference="r")

    gateway = Gateway(*(ChargeOutcome[name] for name in NAMES))
    statuses = []
    while gateway.outcomes:
        await charging(services, gateway, tries_max=TRIES_MAX)(order_id)
        statuses.append((await status(services, order_id)).value)
    assert gateway.asked == ["charge"] * 5 + ["cancel"] * 2
    assert statuses == ["processing_payment"] + ["payment_unknown"] * 5 + ["payment_failed"]
    assert await free(db) == 10


async def test_an_order_without_an_answer_for_days_keeps_a_hundred_attempts(services, db):
    order_id, _ = await waiting_order(services)
    payments = PostgresPayments(services.database)
    for _ in range(110):
        [attempt] = await payments.begin([order_id], due_s=30)
        await payments.announce([attempt])
    assert attempt.attempt == 110
    assert attempt.tries >= services.settings.payments.tries_max
    assert await db.fetchval("SELECT count(*) FROM payment_attempts") <= 102


DIED, PRUNED = "a worker died", "more attempts than are kept"


@pytest.mark.parametrize(
    ("before", "never_asked"),
    [
        ([], True),
        (["UNSENT"], True),
        (["UNSENT"] * 3, True),
        (["UNKNOWN"], False),
        (["UNKNOWN", "UNSENT"], False),
        ([DIED], False),
        ([DIED, "UNSENT", "UNSENT"], False),
        (["UNSENT", PRUNED], False),
    ],
)
async def test_the_gateway_is_told_whether_certainly_no_call_reached_it(services, db, before, never_asked):
    order_id, _ = await waiting_order(services)
    for end in before:
        if end == DIED:
            await PostgresPayments(services.database).begin([order_id], due_s=30)
        elif end == PRUNED:
            await db.execute("UPDATE orders SET attempt = 150")
        else:
            await charging(services, Gateway(ChargeOutcome[end]))(order_id)
    told = []

    class Telling(Gateway):
        async def charge(self, *, first, **asked):
            told.append(first)
            return await super().charge(first=first, **asked)

    await charging(services, Telling(ChargeOutcome.CAPTURED))(order_id)
    assert (told, await status(services, order_id)) == ([never_asked], OrderStatus.CONFIRMED)


BEGINS = 6


@pytest.mark.parametrize(("announced", "asked"), [(False, "charge"), (True, "cancel")])
async def test_attempts_that_end_before_their_call_are_no_tries(services, db, announced, asked):
    order_id, _ = await waiting_order(services)
    payments = PostgresPayments(services.database)
    for _ in range(BEGINS):
        # The worker dies: before it says that it calls, or after.
        [attempt] = await payments.begin([order_id], due_s=30)
        if announced and attempt.attempt > 1:
            assert await payments.announce([attempt]) == {order_id}
    gateway = Gateway(ChargeOutcome.CAPTURED)
    await charging(services, gateway, tries_max=BEGINS - 1)(order_id)
    assert gateway.asked == [(asked, str(order_id))]
    assert await status(services, order_id) is OrderStatus.CONFIRMED


async def test_an_attempt_that_is_superseded_before_its_call_makes_none(services):
    order_id, _ = await waiting_order(services)
    gateway = Gateway(ChargeOutcome.UNKNOWN, ChargeOutcome.CAPTURED)
    charge = charging(services, gateway)
    await charge(order_id)
    announce = charge._payments.announce

    async def superseded(attempts):
        charge._payments.announce = announce
        await PostgresPayments(services.database).begin([order_id], due_s=30)
        return await announce(attempts)

    charge._payments.announce = superseded
    await charge(order_id)
    assert len(gateway.asked) == 1
    await charge(order_id)
    assert len(gateway.asked) == 2
    assert await status(services, order_id) is OrderStatus.CONFIRMED
