"""A call to the payment provider carries its span, and without tracing no header of a trace."""

from __future__ import annotations

from contextlib import nullcontext
from uuid import uuid4

import pytest

from flashsale.adapters.payments.observed import ObservedGateway
from flashsale.adapters.payments.simulator import SimulatorGateway
from flashsale.adapters.payments.stripe_http import SENDING, PooledClient, Sending
from flashsale.domain.money import Money
from flashsale.domain.traces import SpanKind
from flashsale.runtime.tracing import Tracer, calling
from flashsale.settings.tracing import TracingSettings
from tests.support.receiver import receiving


async def by_the_simulators_dialect(url):
    async with SimulatorGateway(url, "secret", connections_max=1) as gateway:
        amount = Money(minor=100, currency="USD")
        await ObservedGateway(gateway).charge(order_id=uuid4(), amount=amount, timeout_s=20)


async def by_stripes(url):
    client = PooledClient(connections_max=1)
    client.open()
    token = SENDING.set(Sending())
    with calling("provider charge"):
        await client.request_async("post", url, {"Idempotency-Key": "k"})
    SENDING.reset(token)
    await client.close_async()


@pytest.mark.parametrize("call", [by_the_simulators_dialect, by_stripes])
async def test_a_call_to_the_provider_carries_its_span(call):
    kept = []
    tracer = Tracer(TracingSettings(ratio=1), kept.extend)
    async with receiving() as receiver:
        for traced in (True, False):
            with tracer.running("charge job", SpanKind.CONSUMER) if traced else nullcontext() as job:
                if job is not None:
                    job.sampled = True
                await call(receiver.url)
        (with_span, _), (without, _) = await receiver.arrived(2)
    (made,) = (span for span in kept if span.kind is SpanKind.CLIENT)
    assert made.name == "provider charge"
    assert with_span["traceparent"] == made.context.traceparent
    assert with_span["Idempotency-Key"]
    assert "traceparent" not in without
