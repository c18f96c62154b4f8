import httpx

from flashsale.asgi import api_services
from flashsale.http.app import build_app
from flashsale.http.live import LiveHub
from tests.conftest import add_product


async def test_readiness_says_what_the_gate_is(services, redis):
    parts = api_services(services)
    transport = httpx.ASGITransport(build_app(parts, LiveHub(parts)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        async def gate():
            return (await client.get("/health/ready")).json()["gate"]

        assert await gate() == "empty", "nothing is loaded without products"
        await add_product(services)
        assert await gate() == "loaded"
        await redis.flushall()
        assert await gate() == "bypass"
