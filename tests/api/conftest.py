"""The real stack: two API processes, workers, the gateway simulator; one per test process, until the last test here."""

from __future__ import annotations

import asyncio

import asyncpg
import httpx
import pytest

from flashsale.local.stack import Stack
from tests.support.api import FAST, PLAIN, admin_headers, buyer_headers
from tests.support.reference import Reference


@pytest.fixture(scope="package")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("stack"), port=0, environment=FAST)
    asyncio.run(stack.start())
    yield stack
    asyncio.run(stack.stop())


@pytest.fixture(scope="package")
def reference(stack):
    """The OpenAPI document of the stack, which judges every answer that `api` gets."""
    document = httpx.get(f"{stack.base_url}/schema/openapi.json", timeout=30).json()
    return Reference(document, port=httpx.URL(stack.base_url).port)


@pytest.fixture
async def api(stack, reference):
    hooks = {"response": [reference.hook]}
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30, event_hooks=hooks, verify=PLAIN) as client:
        yield client


@pytest.fixture(scope="package")
def admin(stack):
    """Headers of the administrator."""
    return admin_headers(stack)


@pytest.fixture(scope="package")
def make_buyers(stack):
    """Make buyers in bulk; returns their headers."""
    return lambda count: buyer_headers(stack, count)


@pytest.fixture(scope="package")
def buyers(make_buyers):
    """As many buyers as the tests ask for, made fifty at a time."""

    def endless():
        while True:
            yield from make_buyers(50)

    return endless()


@pytest.fixture
def buyer(buyers):
    return next(buyers)


@pytest.fixture
def product(api, admin):
    """Create a product; returns its id."""

    async def create(**changes) -> int:
        body = {"name": "Phone", "price": "999.99", "stock": 10, **changes}
        answer = await api.post("/api/admin/products", json=body, headers=admin)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    return create


@pytest.fixture
async def database(stack):
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    yield connection
    await connection.close()
