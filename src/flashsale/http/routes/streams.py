"""Server-sent events: the stock of a product, the state of an order."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath, SkipValidation
from litestar.types import ASGIApp

from flashsale.http.streams.held import Streams

UseStreams = NamedDependency[SkipValidation[Streams]]


def _last_event_id(request: Request[Any, Any, Any]) -> int:
    value = request.headers.get("last-event-id", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else 0  # noqa: PLR2004 - 64 bits


@get("/sse/stock/{product_id:int}", summary="Watch a product's stock", tags=["live"])
async def stock_stream(request: Request[Any, Any, Any], product_id: FromPath[int], streams: UseStreams) -> ASGIApp:
    """Stream the free units of a product, from now on."""
    return await streams.stock(product_id, _last_event_id(request))


@get("/sse/orders/{order_id:uuid}", summary="Watch an order", tags=["live"])
async def order_stream(request: Request[Any, Any, Any], order_id: FromPath[UUID], streams: UseStreams) -> ASGIApp:
    """Stream the state of an order to its owner, until it is final."""
    return await streams.order(order_id, streams.principal(request, order_id), _last_event_id(request))
