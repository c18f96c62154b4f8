"""Spans of this process: made while tracing is on, kept by their outcome, and handed to the queue of the collector.

Without a span in the context, every function here does nothing. A process without a collector makes no tracer.
"""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from flashsale.domain.traces import Span, SpanKind, TraceContext, read_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flashsale.settings.tracing import TracingSettings

CURRENT: ContextVar[Span] = ContextVar("span")
"""The span of the request or job that runs."""

KEPT_PER_S = 100
"""Most traces per second that are kept for their outcome alone: in an outage every request may fail."""

_HALF = 1 << 64
"""The lower half of a trace id is below this; as in OpenTelemetry's samplers, it is the draw."""


class Tracer:
    """Makes the spans of a process."""

    def __init__(self, settings: TracingSettings, put: Callable[[list[Span]], None]) -> None:
        """Hand kept spans to `put`, which neither waits nor raises."""
        self._below = round(settings.ratio * _HALF)
        self._below_of_orders = round(settings.order_ratio * _HALF)
        self._put = put
        self._second = 0
        self._kept = 0

    def begin(self, name: str, kind: SpanKind, parent: TraceContext | None = None) -> Span:
        """Begin a span below a span of another process, or a new trace."""
        ids = secrets.token_bytes(24)
        if parent is None:
            trace_id = int.from_bytes(ids[8:], "big") or 1
            sampled = trace_id % _HALF < self._below
        else:
            trace_id, _, sampled = parent
        return Span(
            name=name,
            kind=kind,
            trace_id=trace_id,
            span_id=int.from_bytes(ids[:8], "big") or 1,
            parent_id=None if parent is None else parent.span_id,
            sampled=sampled,
            began_ns=time.time_ns(),
        )

    def draw_order(self, span: Span) -> None:
        """Draw again, for a buy that becomes an order."""
        span.sampled = span.sampled or span.trace_id % _HALF < self._below_of_orders

    def end(self, span: Span, *, keep: bool = False) -> None:
        """End a span. It is kept, with what is below, if it is sampled, if something failed in it, or by `keep`."""
        span.ended_ns = time.time_ns()
        if span.sampled or ((keep or span.failed) and self._has_room(span.ended_ns // 1_000_000_000)):
            below, span.below = span.below, []
            self._put([span, *below])

    def _has_room(self, second: int) -> bool:
        if second != self._second:
            self._second, self._kept = second, 0
        self._kept += 1
        return self._kept <= KEPT_PER_S

    @contextmanager
    def running(self, name: str, kind: SpanKind, parent: TraceContext | None = None) -> Iterator[Span]:
        """Run the block in a span. Without a parent it is kept only if it fails, or joins a sampled trace."""
        span = self.begin(name, kind, parent)
        if parent is None:
            span.sampled = False
        token = CURRENT.set(span)
        try:
            yield span
        except BaseException as error:
            span.error = type(error).__name__
            raise
        finally:
            CURRENT.reset(token)
            self.end(span)

    def note(
        self, name: str, kind: SpanKind, parent: TraceContext, began_ns: int, facts: Mapping[str, str | int]
    ) -> None:
        """Note a span below a span of another process that has just ended."""
        if parent.sampled:
            span = self.begin(name, kind, parent)
            span.began_ns = began_ns
            span.facts.update(facts)
            self.end(span)


def below(above: Span, name: str, kind: SpanKind) -> Span:
    """Begin a span below one of this process."""
    return Span(
        name=name,
        kind=kind,
        trace_id=above.trace_id,
        span_id=int.from_bytes(secrets.token_bytes(8), "big") or 1,
        parent_id=above.span_id,
        sampled=above.sampled,
        began_ns=time.time_ns(),
    )


@contextmanager
def calling(name: str) -> Iterator[Span | None]:
    """Run the block, a call to another server, in a span below the one that runs; without one, do nothing."""
    above = CURRENT.get(None)
    if above is None:
        yield None
        return
    span = below(above, name, SpanKind.CLIENT)
    token = CURRENT.set(span)
    try:
        yield span
    except BaseException as error:
        span.error = type(error).__name__
        raise
    finally:
        CURRENT.reset(token)
        span.ended_ns = time.time_ns()
        above.hold(span)


def join(traceparent: str) -> None:
    """Let the span that runs become a part of the trace of an order."""
    span = CURRENT.get(None)
    if span is not None and (parent := read_traceparent(traceparent)) is not None:
        span.join(parent)


def outgoing() -> dict[str, str]:
    """Return the header for a call to another server."""
    span = CURRENT.get(None)
    return {} if span is None else {"traceparent": span.context.traceparent}
