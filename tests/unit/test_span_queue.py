"""A collector decides nothing: whatever it does, spans wait in a bounded queue or are dropped, and are counted."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from structlog.testing import capture_logs

from flashsale.adapters.tracing.otlp import Exporter
from flashsale.domain.traces import SpanKind, TraceContext
from flashsale.runtime import span_queue
from flashsale.runtime.span_queue import BATCH_MAX, CLOSE_S, SPANS, SpanQueue
from flashsale.runtime.tracing import Tracer, below
from flashsale.settings.tracing import TracingSettings
from tests.support.collector import collecting

PARENT = TraceContext(trace_id=2**127 + 1, span_id=2**63 + 1, sampled=True)


def counted():
    """Spans so far, by outcome."""
    return {
        sample.labels["outcome"]: sample.value
        for family in SPANS.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def since(before):
    return {
        outcome: count - before.get(outcome, 0) for outcome, count in counted().items() if count != before.get(outcome)
    }


def queue_to(url, *, spans_max=1000, timeout_s=0.2):
    return SpanQueue(Exporter(TracingSettings(otlp_url=url, timeout_s=timeout_s), role="test"), spans_max=spans_max)


def make(queue, count=1):
    """Make traces of two spans, the second below the first."""
    tracer = Tracer(TracingSettings(ratio=1), queue.put)
    for _ in range(count):
        span = tracer.begin("work", SpanKind.SERVER, PARENT)
        span.links.append(TraceContext(trace_id=5, span_id=6, sampled=False))
        span.facts.update({"text": "ü", "number": 7})
        call = below(span, "call", SpanKind.CLIENT)
        call.ended_ns, call.error = call.began_ns + 1, "unknown"
        span.hold(call)
        tracer.end(span)


@pytest.fixture
async def collector():
    async with collecting() as opened:
        yield opened


async def test_spans_arrive_as_they_were(collector):
    queue = queue_to(collector.url, timeout_s=20)
    queue.start()
    make(queue)
    await queue.close()
    await asyncio.to_thread(queue._thread.join, 20)
    work, call = sorted(collector.spans, key=lambda one: one.name, reverse=True)
    assert (work.trace_id, work.parent_id) == (f"{PARENT.trace_id:032x}", f"{PARENT.span_id:016x}")
    assert (call.trace_id, call.parent_id, call.error) == (work.trace_id, work.span_id, "unknown")
    assert work.links == ((f"{5:032x}", f"{6:016x}"),)
    assert (work.service, work.name, work.facts, work.error) == (
        "flashsale-test",
        "work",
        {"text": "ü", "number": 7},
        None,
    )
    assert call.ended_ns == call.began_ns + 1


async def test_many_spans_are_sent_in_parts(collector):
    queue, before = queue_to(collector.url, spans_max=10_000, timeout_s=20), counted()
    make(queue, BATCH_MAX)
    await asyncio.to_thread(queue._deliver)
    assert collector.asked == 2
    assert since(before) == {"sent": 2 * BATCH_MAX}


DEAD = "http://127.0.0.1:9"
FAILING = {"dead": None, "refusing": 500, "too busy": 503, "hanging": "hangs"}


@pytest.mark.parametrize("how", FAILING)
async def test_a_failing_collector_costs_no_time_and_no_room(collector, how):
    if FAILING[how] is not None:
        collector.how = FAILING[how]
    queue, before = queue_to(DEAD if FAILING[how] is None else collector.url, spans_max=20), counted()
    with capture_logs() as lines:
        make(queue, 25)
        assert len(queue._waiting) == 20
        queue.start()
        began_s = time.monotonic()
        await queue.close()
        assert time.monotonic() - began_s < CLOSE_S + 10
        await asyncio.to_thread(queue._thread.join, 20)
    assert not queue._waiting
    assert since(before) == {"lost": 20, "dropped": 30}
    assert [line["event"] for line in lines] == ["traces.not_sent"]


async def test_a_collector_that_is_back_gets_spans_again(collector):
    queue = queue_to(collector.url, timeout_s=20)
    with capture_logs() as lines:
        for how in (400, 400, "takes"):
            collector.how = how
            make(queue)
            await asyncio.to_thread(queue._deliver)
    assert len(collector.spans) == 2
    assert [line["event"] for line in lines] == ["traces.not_sent", "traces.sent_again"]


async def test_a_queue_that_is_half_full_waits_for_no_turn(monkeypatch):
    monkeypatch.setattr(span_queue, "EVERY_S", 600.0)
    sent = threading.Event()

    def take(_spans):
        sent.set()
        return True

    queue = SpanQueue(take, spans_max=8)
    queue.start()
    make(queue)
    assert not sent.is_set()
    make(queue)
    assert await asyncio.to_thread(sent.wait, 20)
    await queue.close()


async def test_an_exporter_that_raises_ends_nothing():
    def raises(_spans):
        raise RecursionError

    queue, before = SpanQueue(raises, spans_max=10), counted()
    queue.start()
    make(queue)
    await queue.close()
    assert since(before) == {"lost": 2}


async def test_a_process_that_ends_waits_for_a_hanging_collector_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(span_queue, "CLOSE_S", 0.2)
    released = threading.Event()
    queue = SpanQueue(lambda _spans: released.wait(60), spans_max=10)
    queue.start()
    make(queue)
    began_s = time.monotonic()
    await queue.close()
    assert 0.1 < time.monotonic() - began_s < 15
    assert queue._thread.is_alive()
    assert queue._thread.daemon
    released.set()
    await asyncio.to_thread(queue._thread.join, 20)
