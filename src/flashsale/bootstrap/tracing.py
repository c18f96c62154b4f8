"""Tracing of a process: off without a collector, and then nothing of it is loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from flashsale.runtime.tracing import Tracer
    from flashsale.settings import Settings

NEEDED = "opentelemetry.exporter.otlp.proto.http"
"""A package of the extra `tracing`."""


def require_tracing(settings: Settings) -> None:
    """End the process with one line if tracing is on and its packages are not installed."""
    if settings.tracing.otlp_url and not _is_installed():
        sys.exit(
            "FLASHSALE_TRACING__OTLP_URL: needs the packages of the extra `tracing`: pip install 'flashsale[tracing]'"
        )


def _is_installed() -> bool:
    try:
        return find_spec(NEEDED) is not None
    except ModuleNotFoundError:
        return False


def open_tracer(opened: AsyncExitStack, settings: Settings, *, role: str) -> Tracer | None:
    """Start tracing, if there is a collector; leaving `opened` sends what waits. A collector that is away is no error.

    OpenTelemetry's library is imported here, so that only a process that traces loads it (0.2 s and 6 MB).
    """
    if not settings.tracing.otlp_url:
        return None
    from flashsale.adapters.tracing.otlp import Exporter
    from flashsale.runtime.span_queue import SpanQueue
    from flashsale.runtime.tracing import Tracer

    queue = SpanQueue(Exporter(settings.tracing, role=role), spans_max=settings.tracing.queue_max)
    queue.start()
    opened.push_async_callback(queue.close)
    return Tracer(settings.tracing, queue.put)
