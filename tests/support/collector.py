"""A collector of traces: a real HTTP server that decodes OTLP, and takes it, refuses it or does not answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """A span as it arrived."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    """Empty without a parent."""
    links: tuple[tuple[str, str], ...]
    """Trace and span of each."""
    facts: Mapping[str, Any]
    error: str | None
    began_ns: int
    ended_ns: int


class Collector:
    """Answers by `how`: `takes`, a status, or `hangs`."""

    def __init__(self) -> None:
        self.how: str | int = "takes"
        self.spans: list[Got] = []
        self.asked = 0
        self.url = ""
        self._arrived = asyncio.Condition()
        self._released = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._arrived:
            self.asked += 1
            if self.how == "takes":
                assert request.path == "/v1/traces"
                assert request.headers["Content-Type"] == "application/x-protobuf"
                self.spans += _spans(ExportTraceServiceRequest.FromString(body))
            self._arrived.notify_all()
        if self.how == "hangs":
            await self._released.wait()
        return web.Response(status=self.how if isinstance(self.how, int) else 200)

    async def was_asked(self, times: int) -> None:
        """Wait until so many deliveries came."""
        async with asyncio.timeout(60), self._arrived:
            await self._arrived.wait_for(lambda: self.asked >= times)

    def release(self) -> None:
        self._released.set()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", collector.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        collector.release()
        await runner.cleanup()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Got]:
    for of_resource in request.resource_spans:
        service = _values(of_resource.resource.attributes)["service.name"]
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Got(
                    service=service,
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    facts=_values(span.attributes),
                    error=(span.status.message or "failed")
                    if span.status.code == span.status.STATUS_CODE_ERROR
                    else None,
                    began_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                )


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
