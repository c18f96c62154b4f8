"""The Litestar app: routes, dependencies and error handlers put together."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, SerializationException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin

from flashsale import __version__
from flashsale.domain.errors import FlashSaleError
from flashsale.http import problems
from flashsale.http.auth import Tokens
from flashsale.http.live import LiveHub
from flashsale.http.metrics import Edge, Pump
from flashsale.http.openapi import COMPONENTS, complete
from flashsale.http.routes import accounts, admin, health, live, orders, products

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flashsale.http.services import ApiServices


class JsonRequest(Request[Any, Any, Any]):
    """A request whose body is refused like any other bad JSON if it is not UTF-8."""

    async def json(self) -> Any:
        """Decode the body; `SerializationException` if it is no JSON."""
        try:
            return await super().json()
        except UnicodeDecodeError as error:
            raise SerializationException("not UTF-8") from error


def build_app(services: ApiServices, hub: LiveHub) -> Edge:
    """Make the ASGI app that serves from `services`; its lifespan runs the live hub."""
    settings = services.settings
    tokens = Tokens(settings.auth)
    streams = live.Streams(services, tokens, hub)
    pump = Pump(services)

    @asynccontextmanager
    async def running_hub(_: Litestar) -> AsyncIterator[None]:
        task = asyncio.create_task(hub.run())
        try:
            yield
        finally:
            task.cancel()

    app = Litestar(
        route_handlers=[
            accounts.register,
            accounts.log_in,
            products.list_products,
            products.one_product,
            orders.buy_route(services, tokens, body_bytes_max=settings.http.body_bytes_max),
            orders.status,
            orders.pay,
            orders.cancel,
            orders.stream_token,
            admin.routes,
            health.live,
            health.ready,
            health.metrics,
            live.stock_stream,
            live.order_stream,
        ],
        dependencies={
            "services": Provide(lambda: services, sync_to_thread=False),
            "tokens": Provide(lambda: tokens, sync_to_thread=False),
            "streams": Provide(lambda: streams, sync_to_thread=False),
            "pump": Provide(lambda: pump, sync_to_thread=False),
        },
        exception_handlers={
            FlashSaleError: problems.domain_error_handler,
            HTTPException: problems.http_error_handler,
            Exception: problems.unexpected_error_handler,
        },
        openapi_config=OpenAPIConfig(
            title="flashsale",
            version=__version__,
            description="A flash sale: a fixed number of units, far more buyers.",
            path="/schema",
            components=COMPONENTS,
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"]), YamlRenderPlugin()],
        ),
        state=State({"tokens": tokens}),
        lifespan=[running_hub],
        request_class=JsonRequest,
        request_max_body_size=settings.http.body_bytes_max,
        logging_config=None,
    )
    complete(app.openapi_schema)
    return Edge(app)
