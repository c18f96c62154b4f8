"""Delivers spans to a collector by OTLP over HTTP, with OpenTelemetry's own library.

Spans are made when their outcome is known, so the library gets ids and times that exist already. It reads its own
environment variables for headers, certificates, compression and further attributes of the process (OTEL_...).
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation import set_span_in_context

from flashsale import __version__
from flashsale.settings.tracing import PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context

    from flashsale.domain.traces import Span, TraceContext
    from flashsale.settings.tracing import TracingSettings

LINKS_MAX = 500
"""A batch has a link to each buy: at most FLASHSALE_ACCEPT__BATCH_MAX."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Exporter:
    """Delivers spans; one thread uses it."""

    def __init__(self, settings: TracingSettings, *, role: str) -> None:
        """Make the client; nothing is sent yet. `role`: the kind of process, as the collector shows it."""
        # It writes a line for each try; ours says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._ids = _Ids()
        self._ended = _Ended()
        resource = Resource.create(
            {
                "service.name": f"flashsale-{role}",
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
            }
        )
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=resource,
            id_generator=self._ids,
            span_limits=SpanLimits(max_links=LINKS_MAX),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("flashsale", __version__)
        self._exporter = OTLPSpanExporter(settings.otlp_url + PATH, timeout=settings.timeout_s)

    def __call__(self, spans: Sequence[Span]) -> bool:
        """Deliver spans; False if the collector did not take them."""
        made = self._ended.spans = []
        for span in spans:
            self._make(span)
        return self._exporter.export(made) is SpanExportResult.SUCCESS

    def _make(self, span: Span) -> None:
        self._ids.next = span.context
        made = self._tracer.start_span(
            span.name,
            context=_above(span),
            kind=SpanKind[span.kind.name],
            attributes=span.facts,
            links=[Link(_known(one)) for one in span.links],
            start_time=span.began_ns,
        )
        if span.error is not None:
            made.set_status(StatusCode.ERROR, span.error)
        made.end(span.ended_ns)


class _Ids(IdGenerator):
    """Gives the next span the ids that it has."""

    next: TraceContext

    def generate_trace_id(self) -> int:
        return self.next.trace_id

    def generate_span_id(self) -> int:
        return self.next.span_id


class _Ended(SpanProcessor):
    """Gathers what the library made."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def _above(span: Span) -> Context:
    """Return the library's context with the span above, which another process may have; without one, a new trace."""
    if span.parent_id is None:
        return set_span_in_context(NonRecordingSpan(SpanContext(0, 0, is_remote=False)))
    above = SpanContext(span.trace_id, span.parent_id, is_remote=True, trace_flags=_SAMPLED)
    return set_span_in_context(NonRecordingSpan(above))


def _known(context: TraceContext) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=_SAMPLED)
