"""Health and metrics, for whoever watches the processes."""

from __future__ import annotations

from litestar import Response, get

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
    loaded = True
    for product in services.catalog.all():
        loaded = loaded and (await services.gate.state(product.product_id, product.epoch)).loaded
    health = HealthOut(
        ready=postgres,
        postgres=postgres,
        listening=services.feed.connected,
        gate="loaded" if loaded else "bypass",
    )
    return Response(health, status_code=200 if postgres else 503, headers={} if postgres else {"Retry-After": "1"})


@get("/metrics", summary="Prometheus metrics", tags=["health"], media_type="text/plain; version=0.0.4")
async def metrics(services: UseServices, pump: UsePump) -> bytes:
    """Give the metrics of this machine's API processes, and figures read from Postgres and the gate just now."""
    return await scrape(services, pump)
