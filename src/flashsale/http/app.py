"""The Litestar app: routes, dependencies and error handlers put together."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, SerializationException
from litestar.routes import HTTPRoute

from flashsale.domain.cells import Cells
from flashsale.domain.errors import FlashSaleError
from flashsale.http import problems
from flashsale.http.addresses import Addresses
from flashsale.http.auth import Tokens
from flashsale.http.cors import Cors
from flashsale.http.edge import Edge
from flashsale.http.limits import Limits
from flashsale.http.metrics import Meter, MetricsFlusher
from flashsale.http.pages import PageParts, no_pages
from flashsale.http.recent import Recent
from flashsale.http.routes import (
    accounts,
    admin,
    health,
    orders,
    problem_pages,
    products,
    reference,
    status,
    story,
    streams,
    trail,
    webhooks,
)
from flashsale.http.streams.held import Streams, StreamsOutlast
from flashsale.http.streams.hub import LiveHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from litestar.types import ControllerRouterHandler, ExceptionHandlersMap

    from flashsale.http.openapi import Described
    from flashsale.http.pages import PageRoutes
    from flashsale.runtime.tracing import Tracer
    from flashsale.usecases.services import Services


class JsonRequest(Request[Any, Any, Any]):
    """Litestar's request, except that a body that is not UTF-8 is refused as bad JSON."""

    async def json(self) -> Any:
        """Decode the body; `SerializationException` if it is not JSON."""
        try:
            return await super().json()
        except UnicodeDecodeError as error:
            raise SerializationException("not UTF-8") from error


ROUTES: Sequence[ControllerRouterHandler] = (
    orders.list_mine,
    orders.pay,
    orders.cancel,
    orders.refund,
    orders.stream_token,
    admin.routes,
    status.status,
    story.story,
    trail.read_trail,
    health.live,
    health.ready,
    health.metrics,
    streams.stock_stream,
    streams.order_stream,
)
"""The routes that the framework serves; the direct ones are in their modules."""

HANDLERS: ExceptionHandlersMap = {
    FlashSaleError: problems.domain_error_handler,
    HTTPException: problems.http_error_handler,
    Exception: problems.unexpected_error_handler,
}


def build_app(services: Services, hub: LiveHub, pages: PageRoutes = no_pages, *, tracer: Tracer | None = None) -> Edge:
    """Make the ASGI app that serves from `services`; its lifespan runs the live hub and the metrics' flusher.

    `pages`: makes the routes of the HTML pages. `tracer`: makes the spans of a process that traces.
    """
    settings = services.settings
    tokens = Tokens(settings.auth, services.revocations)
    held = Streams(services, tokens, hub)
    meter = Meter()
    limits = Limits(settings.limits, settings.gate)
    flusher = MetricsFlusher(services, meter)
    addresses = Addresses(settings.http.trusted_proxies)
    recent = Recent(services.catalog)
    cells = Cells(number=settings.cell.number, count=settings.cell.count)

    @asynccontextmanager
    async def running(_: Litestar) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(hub.run()),
            asyncio.create_task(flusher.run()),
            asyncio.create_task(held.end_revoked()),
            asyncio.create_task(recent.run()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    app = Litestar(
        route_handlers=ROUTES,
        dependencies={
            "services": Provide(lambda: services, sync_to_thread=False),
            "tokens": Provide(lambda: tokens, sync_to_thread=False),
            "streams": Provide(lambda: held, sync_to_thread=False),
            "flusher": Provide(lambda: flusher, sync_to_thread=False),
        },
        exception_handlers=HANDLERS,
        # Each route declares its operation; see `reference`.
        openapi_config=None,
        state=State(
            {
                "tokens": tokens,
                "sessions": services.sessions,
                "limits": limits,
                "addresses": addresses,
                "cells": cells,
            }
        ),
        lifespan=[running],
        request_class=JsonRequest,
        request_max_body_size=settings.http.body_bytes_max,
        logging_config=None,
    )
    cors = Cors(settings.http.cors_origins, credentials=settings.http.cors_credentials)
    direct = [
        *products.direct_routes(services),
        *orders.direct_routes(services, tokens, meter, limits),
        *accounts.direct_routes(services, tokens),
        *webhooks.direct_routes(services),
        *problem_pages.ROUTES,
    ]
    direct += reference.direct_routes(
        [*operations(app), *((one.template, one.method, one.operation) for one in direct if one.operation is not None)]
    )
    parts = PageParts(services=services, tokens=tokens, limits=limits, meter=meter, addresses=addresses, recent=recent)
    direct += pages(parts)
    if tracer is None:
        return Edge(StreamsOutlast(app), app, direct, meter, cors=cors, cells=cells)
    from flashsale.http.traced import TracedEdge

    slow_s = settings.tracing.slow_s
    return TracedEdge(StreamsOutlast(app), app, direct, meter, cors=cors, cells=cells, tracer=tracer, slow_s=slow_s)


def operations(app: Litestar) -> Iterator[Described]:
    """Return the OpenAPI operations of the framework's routes.

    Raises:
        KeyError: if a handler does not declare its operation.
    """
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for method, (handler, _) in route.route_handler_map.items():
                if method != "OPTIONS":
                    yield route.path, method, handler.opt["operation"]
