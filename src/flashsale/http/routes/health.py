"""Health and metrics, for whoever watches the processes."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get

from flashsale.http.metrics import UsePump, scrape
from flashsale.http.schemas import HealthOut
from flashsale.http.services import UseServices


@get("/health/live", summary="Does this process run", tags=["health"])
async def live() -> dict[str, bool]:
    """Answer."""
    return {"live": True}


@get("/health/ready", summary="Can this process serve", tags=["health"])
async def ready(services: UseServices) -> Response[HealthOut]:
    """Say 503 if Postgres is away. A bypassed gate and a lost LISTEN connection are only shown: the sale goes on."""
    postgres = await services.database.ping()
    products = services.catalog.all()
    states = [await services.gate.state(product.product_id, product.epoch) for product in products]
    health = HealthOut(
        ready=postgres,
        postgres=postgres,
        listening=services.feed.connected,
        gate="empty" if not products else "loaded" if all(state.loaded for state in states) else "bypass",
    )
    return Response(health, status_code=200 if postgres else 503, headers={} if postgres else {"Retry-After": "1"})


@get("/metrics", summary="Prometheus metrics", tags=["health"], media_type="text/plain")
async def metrics(request: Request[Any, Any, Any], pump: UsePump) -> Response[bytes]:
    """Give the metrics of this machine's API processes, as OpenMetrics if asked for."""
    text, content_type = await scrape(pump, request.headers.get("accept", ""))
    return Response(text, media_type=content_type)
