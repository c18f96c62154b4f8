"""One trace follows an order through every process, and the collector decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from contextlib import AsyncExitStack

import aiohttp
import pytest

from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.tracing import open_tracer
from flashsale.domain.products import PaymentMode
from flashsale.domain.users import Principal, Role
from flashsale.http.app import build_app
from flashsale.http.auth import Tokens
from flashsale.http.server import Server
from flashsale.http.streams.hub import LiveHub
from tests.by_buyer.sale import KEY, PUBLISHABLE, endpoint, provider, working
from tests.conftest import add_buyers, add_product, assert_invariants, make_settings
from tests.integration.test_mails import mailbox
from tests.support.collector import collecting
from tests.support.receiver import receiving
from tests.tracing.journey import Buyer
from tests.tracing.tree import PATH, faults, text

SECRET = "whsec_" + "A" * 43 + "="
KEEP_ALL = {"ratio": 1.0}


@pytest.fixture
async def collector():
    async with collecting() as opened:
        yield opened


async def serving(opened, settings, sock):
    """Run an API process' parts here, with a tracer of its own; returns the services."""
    tracer = open_tracer(opened, settings, role="api")
    services = await opened.enter_async_context(open_services(settings, name="traced", tracer=tracer))
    hub = LiveHub(services, services.traces)
    edge = build_app(services, hub, tracer=tracer)
    server = Server(edge, settings.http)
    await opened.enter_async_context(edge.lifespan())
    await server.listen(sock)
    opened.push_async_callback(server.stop, leave_s=0, finish_s=1)
    opened.callback(hub.close)
    return services


async def delivered(jobs, mails, receiver):
    """Deliver until the shop and the buyer were told of the confirmation."""
    async with asyncio.timeout(30):
        while not any(mails.glob("*.eml")) or not any(b"order.confirmed" in body for _, body in receiver.came):
            await jobs.deliver()
            await jobs.deliver.idle()


async def faults_at_last(collector, journey):
    """Return the faults of the trace once it is whole, or after 20 s: a process waits one second for its last delivery."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            while list(faults(collector.spans, journey.trace_id, journey.caller_id)):
                await collector.was_asked(collector.asked + 1)
    return list(faults(collector.spans, journey.trace_id, journey.caller_id))


@pytest.mark.usefixtures("redis")
async def test_one_orders_trace_is_whole(postgres_url, valkey, collector, tmp_path):
    mails = tmp_path / "mails"
    async with AsyncExitStack() as opened:
        url = await opened.enter_async_context(provider())
        receiver = await opened.enter_async_context(receiving())
        mail_url = await opened.enter_async_context(mailbox(mails))
        http = await opened.enter_async_context(aiohttp.ClientSession())
        sock = socket.create_server(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        secret = await endpoint(http, url, base_url)
        settings = make_settings(
            postgres_url,
            valkey.url,
            payments={"provider": "stripe", "timeout_s": 20.0},
            stripe={"base_url": url, "secret_key": KEY, "publishable_key": PUBLISHABLE, "webhook_secret": secret},
            outbox={"loopback_allowed": True},
            mail={"url": mail_url},
            tracing={"otlp_url": collector.url, **KEEP_ALL},
        )
        services = await serving(opened, settings, sock)
        await PostgresOutbox(services.database).add_endpoint(
            "wh_a", receiver.url, SECRET, ["order.confirmed"], targets_max=20
        )
        jobs = await opened.enter_async_context(working(settings, ["orders", "payments"]))
        await jobs.deliver()
        product = await add_product(services, payment_mode=PaymentMode.BY_BUYER, payment_window_s=3600)
        (user,) = await add_buyers(services, 1)
        token = Tokens(settings.auth, services.revocations).issue(Principal(user_id=user, role=Role.BUYER))
        buyer = Buyer(base_url=base_url, provider_url=url, headers={"Authorization": f"Bearer {token}"}, http=http)
        journey = await buyer.buy(product.product_id)
        await delivered(jobs, mails, receiver)
        story = await services.stories.read(journey.order_id)
        assert story is not None
        assert story.trace_id == journey.trace_id
        assert " " not in (story.request_id or "")
        await assert_invariants(services.database)
    found = await faults_at_last(collector, journey)
    printed = text(collector.spans, journey.trace_id)
    sys.stdout.write(printed)
    assert found == [], printed
    # What goes out carries the span that sent it.
    spans = {(one.trace_id, one.span_id): one.name for one in collector.spans}
    sent = [headers["traceparent"].split("-") for headers, _ in receiver.came]
    assert {spans[trace_id, span_id] for _, trace_id, span_id, _ in sent} == {"send webhook"}


def test_the_check_of_a_trace_finds_what_is_missing_or_in_the_wrong_place():
    assert {fault.partition(":")[0] for fault in faults([], "00", "00")} == set(PATH)
