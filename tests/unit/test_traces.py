"""Headers of traces are read as W3C says, and what is kept of a trace depends on its outcome."""

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
from uuid import UUID

import pytest

from flashsale.bootstrap.tracing import NEEDED, require_tracing
from flashsale.domain.errors import Unavailable
from flashsale.domain.requests import BuyRequest, Proposal
from flashsale.domain.traces import BELOW_MAX, Origin, Span, SpanKind, TraceContext, read_traceparent
from flashsale.http.cors import Cors
from flashsale.http.edge import Edge
from flashsale.http.messages import Request, empty
from flashsale.http.metrics import Meter
from flashsale.http.traced import TracedEdge
from flashsale.runtime import logs
from flashsale.runtime.logs import bind_origin
from flashsale.runtime.tracing import CURRENT, KEPT_PER_S, Tracer, below, calling, outgoing
from flashsale.settings.tracing import TracingSettings
from flashsale.usecases.ports import PoisonBatch
from flashsale.usecases.tracing import OrderTraces
from tests.conftest import ROOT, make_settings, of_this_checkout
from tests.support.reference import app_of_routes

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE_ID}-{SPAN_ID}-01"
CONTEXT = TraceContext(int(TRACE_ID, 16), int(SPAN_ID, 16), sampled=True)
ORDER = UUID("0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58")


def by_the_specification(text):
    """Read a header with the steps of W3C Trace Context, section 3.2, one by one; the other way to read it."""
    fields = text.split("-")
    if len(fields) < 4 or [len(field) for field in fields[:4]] != [2, 32, 16, 2]:
        return None
    if not all(letter in "0123456789abcdef" for field in fields[:4] for letter in field):
        return None
    version, trace_id, span_id, flags = fields[:4]
    if version == "ff" or set(trace_id) == {"0"} or set(span_id) == {"0"} or (version == "00" and len(fields) > 4):
        return None
    return TraceContext(int(trace_id, 16), int(span_id, 16), sampled=int(flags, 16) % 2 == 1)


def headers():
    """Generate headers that are nearly right: one character changed, lost or added, at each place."""
    yield from (VALID, "", "00", VALID.upper(), f" {VALID}", f"{VALID} ", f"{VALID}\n", f"{VALID}, {VALID}", VALID * 20)
    yield from (
        f"{version:02x}{VALID[2:]}{more}" for version in (0, 1, 0xCC, 0xFE, 0xFF) for more in ("", "-", "-what.is-new")
    )
    yield from (VALID[:-2] + f"{flags:02x}" for flags in range(256))
    yield from (VALID.replace(TRACE_ID, "0" * 32), VALID.replace(SPAN_ID, "0" * 16))
    drawn = random.Random(1)
    for place in range(len(VALID)):
        yield VALID[:place]
        yield VALID[:place] + VALID[place + 1 :]
        for letter in {*"0fFg-", drawn.choice(string.printable), "\x00", "é", "٣"}:
            yield VALID[:place] + letter + VALID[place + 1 :]
            yield VALID[:place] + letter + VALID[place:]


def test_a_header_is_read_as_the_specification_says():
    tried = list(headers())
    assert len(tried) > 700
    for text in tried:
        assert read_traceparent(text) == by_the_specification(text), repr(text)
    assert read_traceparent(VALID) == CONTEXT
    assert CONTEXT.traceparent == VALID
    assert read_traceparent(f"cc{VALID[2:]}-{'x' * 1000}") is None, "nobody needs a header of this length"


class Kept(list[list[Span]]):
    """What a tracer handed on, one list for each piece of work."""

    @property
    def names(self):
        return [[span.name for span in spans] for spans in self]


def tracing(**settings):
    kept = Kept()
    return Tracer(TracingSettings(**{"ratio": 0, "order_ratio": 0, **settings}), kept.append), kept


def edge_of(tracer, slow_s=60.0):
    """An edge whose every path is unknown: it answers 404, which is enough to make a span."""
    from types import SimpleNamespace

    return TracedEdge(
        None, SimpleNamespace(routes=[]), [], Meter(), cors=Cors([], credentials=False), tracer=tracer, slow_s=slow_s
    )


async def ask(edge, *sent, answer=None, path="/somewhere"):
    """Answer a request with these headers `traceparent`; returns the status."""
    request = Request(method="GET", path=path, query=b"", headers=[(b"traceparent", one.encode()) for one in sent])

    async def serve(_request):
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return await answer()
        return empty(204)

    return (await edge._named("/somewhere", request, serve)).status


async def test_no_header_changes_the_answer_and_only_a_valid_one_is_the_parent():
    edge = edge_of(tracing()[0])
    seen = []

    async def look():
        seen.append(CURRENT.get())
        return empty(204)

    sent = [(one,) for one in headers() if one.isprintable()] + [(VALID, VALID), (VALID, "x"), ()]
    for given in sent:
        assert await ask(edge, *given, answer=look) == 204
        span = seen.pop()
        parent = read_traceparent(given[0]) if len(given) == 1 else None
        if parent is None:
            assert span.parent_id is None
            assert span.trace_id not in (0, CONTEXT.trace_id)
        else:
            assert (span.trace_id, span.parent_id) == (parent.trace_id, parent.span_id)


OUTCOMES = {
    "an answer": (None, False),
    "a failure": (RuntimeError(), True),
    "a refusal for want of room": (Unavailable(), True),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("sent", [(), (VALID[:-2] + "00",)], ids=["a new trace", "a parent that is not sampled"])
async def test_a_failed_request_is_always_kept(outcome, sent):
    answer, expected = OUTCOMES[outcome]
    tracer, kept = tracing()
    await ask(edge_of(tracer), *sent, answer=answer)
    assert [span.error is not None for (span,) in kept] == [True] * expected


async def test_a_slow_request_is_kept_and_one_that_its_caller_sampled():
    tracer, kept = tracing()
    await ask(edge_of(tracer, slow_s=0))
    await ask(edge_of(tracer), VALID)
    await ask(edge_of(tracer))
    assert len(kept) == 2


async def test_what_a_failed_request_did_is_kept_with_it():
    tracer, kept = tracing()

    async def fails():
        with calling("provider charge"):
            raise OSError

    await ask(edge_of(tracer), answer=fails)
    assert kept.names == [["GET /somewhere", "provider charge"]]
    above, call = kept[0]
    assert (call.trace_id, call.parent_id, call.error) == (above.trace_id, above.span_id, "OSError")


def test_in_an_outage_only_so_many_traces_are_kept_for_their_failure(monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000_000)
    tracer, kept = tracing()
    for _ in range(3 * KEPT_PER_S):
        span = tracer.begin("failing", SpanKind.SERVER)
        span.error = "status 503"
        tracer.end(span)
    assert len(kept) == KEPT_PER_S


@pytest.mark.parametrize("ratio", [0, 0.25, 1])
def test_a_share_of_the_traces_is_kept(ratio):
    tracer, _ = tracing(ratio=ratio, order_ratio=1)
    spans = [tracer.begin("any", SpanKind.SERVER) for _ in range(4000)]
    share = sum(span.sampled for span in spans) / len(spans)
    assert abs(share - ratio) < 0.1
    for span in spans:
        tracer.draw_order(span)
    assert all(span.sampled for span in spans)


def test_a_span_holds_a_limited_number_of_others():
    tracer, kept = tracing(ratio=1)
    span = tracer.begin("long", SpanKind.SERVER)
    for _ in range(3 * BELOW_MAX):
        span.hold(below(span, "call", SpanKind.CLIENT))
    tracer.end(span)
    assert len(kept[0]) == BELOW_MAX + 1


def test_a_job_becomes_a_part_of_its_orders_trace_with_what_it_did_before():
    tracer, kept = tracing()
    with tracer.running("charge job", SpanKind.CONSUMER) as job:
        with calling("early"):
            pass
        bind_origin(Origin("r-1", VALID))
        with calling("late") as call:
            assert outgoing() == {"traceparent": call.context.traceparent}
    ((span, early, late),) = kept
    assert {one.trace_id for one in (span, early, late)} == {CONTEXT.trace_id}
    assert [one.parent_id for one in (span, early, late)] == [CONTEXT.span_id, job.span_id, job.span_id]
    with tracer.running("charge job", SpanKind.CONSUMER):
        bind_origin(Origin("r-1", VALID[:-2] + "00"))
    assert len(kept) == 1, "the order is not sampled"
    with pytest.raises(OSError, match="away"), tracer.running("charge job", SpanKind.CONSUMER):
        raise OSError("away")
    assert kept[-1][0].error == "OSError"


def test_a_webhook_joins_its_orders_trace_and_keeps_its_sender_as_a_link():
    tracer, _ = tracing()
    sender = TraceContext(7, 8, sampled=True)
    span = tracer.begin("webhook", SpanKind.SERVER, sender)
    span.join(CONTEXT)
    assert (span.trace_id, span.parent_id, span.links) == (CONTEXT.trace_id, CONTEXT.span_id, [sender])


ORIGINS = [Origin(), Origin("r-1"), Origin("r-1", VALID), Origin("a" * 64, VALID[:-2] + "00")]


@pytest.mark.parametrize("origin", ORIGINS, ids=str)
def test_a_row_keeps_the_request_and_its_span_together(origin):
    assert Origin.read(origin.kept) == origin
    assert origin.trace_id == (TRACE_ID if origin.traceparent else None)


def test_a_proposal_without_a_span_keeps_the_request_alone():
    request = BuyRequest(user_id=ORDER, product_id=1, quantity=1, key=None)
    assert Proposal(ORDER, request, None, request_id="r-1").origin.kept == "r-1"


@pytest.mark.parametrize("error", [Unavailable(), PoisonBatch("bad", unknown_user=False)], ids=["away", "refused"])
async def test_a_trace_that_cannot_be_read_is_left_out(error):
    class Rows:
        async def origins(self, _order_ids):
            raise error

    assert await OrderTraces(tracing()[0], Rows()).of([ORDER]) == {}


def test_log_lines_name_the_trace():
    tracer, _ = tracing()
    assert "trace_id" not in logs._with_ids(None, "info", {"event": "x"})
    span = tracer.begin("GET", SpanKind.SERVER, CONTEXT)
    token = CURRENT.set(span)
    assert logs._with_ids(None, "info", {"event": "x"})["trace_id"] == TRACE_ID
    CURRENT.reset(token)
    ((line,),) = logs.lines_of_orders([(ORDER, Origin("r-1", VALID))])
    assert line == {"order_id": str(ORDER), "request_id": "r-1", "trace_id": TRACE_ID}


def test_without_its_packages_a_process_that_shall_trace_ends_with_one_line(monkeypatch):
    settings = make_settings(
        "postgresql://x@127.0.0.1:9/x", "redis://127.0.0.1:9", tracing={"otlp_url": "http://127.0.0.1:9"}
    )
    require_tracing(settings)
    monkeypatch.setitem(sys.modules, NEEDED, None)
    with pytest.raises(SystemExit, match=r"FLASHSALE_TRACING__OTLP_URL: .*flashsale\[tracing\]"):
        require_tracing(settings)
    require_tracing(make_settings("postgresql://x@127.0.0.1:9/x", "redis://127.0.0.1:9"))


START = """
import asyncio, json, re, sys
from contextlib import AsyncExitStack
import flashsale.asgi, workers.__main__, flashsale.bootstrap.servers
from flashsale.bootstrap.tracing import open_tracer
from flashsale.settings import Settings
from flashsale.settings.tracing import TracingSettings

async def loaded(url):
    async with AsyncExitStack() as stack:
        tracer = open_tracer(stack, Settings(tracing=TracingSettings(otlp_url=url)), role="api")
    others = re.compile(r"opentelemetry\\.(exporter|proto|sdk\\.trace)|google\\.protobuf")
    ours = re.compile(r"flashsale\\.\\S*(traced|adapters\\.tracing|span_queue)")
    return [tracer is not None, *([name for name in sys.modules if these.match(name)] for these in (others, ours))]

print(json.dumps([asyncio.run(loaded(url)) for url in ("", "http://127.0.0.1:9")]))
"""


def test_without_a_tracer_the_plain_edge_serves():
    assert type(app_of_routes()) is Edge


def test_a_process_that_does_not_trace_loads_nothing_of_it():
    """Except what the client of Redis imports of the library by itself, if the library is there."""
    done = subprocess.run(
        [sys.executable, "-c", START], env=of_this_checkout(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    off, (traces, others, ours) = json.loads(done.stdout)
    assert off == [False, [], []]
    # The control: with a collector the same process loads it.
    assert traces
    assert {"opentelemetry.sdk.trace", "google.protobuf"} <= set(others)
    assert "flashsale.adapters.tracing.otlp" in ours
