"""What every baseline shares: the HTTP surface that a buyer uses, the tables, the payment call and the process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import traceback
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import jwt
import msgspec
from litestar import Litestar, Request, get, post
from litestar.params import FromPath, JSONBody
from litestar.response import Response, ServerSentEvent
from redis.asyncio import BlockingConnectionPool, Redis

from flashsale.adapters.payments.simulator import SimulatorGateway
from flashsale.domain.money import Money
from flashsale.domain.payments import ChargeOutcome
from flashsale.http.server import Server
from flashsale.settings.edge import HttpSettings

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Coroutine

    from asyncpg.pool import PoolConnectionProxy
    from litestar.handlers import HTTPRouteHandler
    from litestar.types import Receive, Scope, Send

SCHEMA = (Path(__file__).parent / "schema.sql").read_text()
CHARGE_S = 5.0
"""How long one call to the payment provider may take."""
CHARGES_MAX = 3
"""Calls for one order before its payment counts as failed; all have the same idempotency key."""
STREAM_S = 0.25
"""How often a stream looks at the stock, unless the approach pushes it."""
REDIS_MAX = 100
"""Connections to Redis of one process."""
POOL_MAX = 20
"""Connections to Postgres of one process, as in the product."""


class Refused(Exception):
    """A buy that is answered with a problem."""

    def __init__(self, status: int, code: str) -> None:
        """Answer with `status` and the problem's `code`."""
        super().__init__(code)
        self.status = status
        self.code = code


SOLD_OUT = (409, "sold_out")
BUSY = (503, "unavailable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where the servers are; read from the environment, so that no secret is on a command line."""

    postgres: str
    redis: str
    gateway: str
    gateway_secret: str
    jwt_secret: str

    @classmethod
    def from_environment(cls) -> Servers:
        """Read BASELINE_POSTGRES, BASELINE_REDIS and so on.

        Raises:
            SystemExit: naming the variable that is missing.
        """
        values = {name: os.environ.get(f"BASELINE_{name.upper()}", "") for name in cls.__annotations__}
        for name, value in values.items():
            if not value:
                raise SystemExit(f"BASELINE_{name.upper()}: set this variable; see docs/how-to for the analysis.")
        return cls(**values)


class Shop(ABC):
    """One approach: subclasses decide how a buy is decided, and what works in the background."""

    workers: tuple[str, ...] = ()
    """Kinds of worker processes besides the API processes."""
    waits_s: float = CHARGE_S
    """The longest wait in which the approach writes nothing."""

    def __init__(self, servers: Servers) -> None:
        """Keep where the servers are; `open` connects."""
        self.servers = servers
        # A buyer for whom no connection is free waits for one; the default raises an error.
        connections: Any = BlockingConnectionPool.from_url(
            servers.redis, decode_responses=True, max_connections=REDIS_MAX, timeout=CHARGE_S
        )
        # Its type does not know that answers are decoded.
        self.redis: Any = Redis.from_pool(connections)
        self.gateway = SimulatorGateway(servers.gateway, servers.gateway_secret, connections_max=200)
        self.pool: asyncpg.Pool[asyncpg.Record]
        self._prices: dict[int, Money] = {}

    async def open(self) -> None:
        """Connect."""
        self.pool = await asyncpg.create_pool(self.servers.postgres, min_size=2, max_size=POOL_MAX)
        await self.gateway.__aenter__()

    async def close(self) -> None:
        """Close what `open` opened."""
        await self.gateway.__aexit__()
        await self.redis.aclose()
        await self.pool.close()

    async def create(self, product_id: int, *, name: str, price_minor: int, currency: str, stock: int) -> None:
        """Put a product on sale."""
        await self.pool.execute(
            "INSERT INTO products VALUES ($1, $2, $3, $4, $5)", product_id, name, price_minor, currency, stock
        )

    @abstractmethod
    async def buy(self, user_id: str, product_id: int, key: str | None) -> uuid.UUID:
        """Sell one unit; returns the order's id.

        Raises:
            Refused: if it is not sold.
        """

    def routes(self) -> list[HTTPRouteHandler]:
        """Return routes that only this approach has."""
        return []

    async def work(self, kind: str) -> None:
        """Run one worker process until cancelled."""
        raise NotImplementedError(kind)

    async def stock(self, product_id: int) -> int:
        """Return the units that buyers are shown."""
        return int(await self.pool.fetchval("SELECT stock FROM products WHERE product_id = $1", product_id) or 0)

    async def stocks(self, product_id: int) -> AsyncIterator[int]:
        """Return the stock again and again, as a stream shows it."""
        while True:
            yield await self.stock(product_id)
            await asyncio.sleep(STREAM_S)

    async def waiting(self, product_id: int) -> int:
        """Return how much waits in the approach's queues: here none, because the buyer waits."""
        del product_id
        return 0

    async def price(self, product_id: int) -> Money:
        """Return a product's price; it does not change while a shop is open."""
        if product_id not in self._prices:
            row = await self.pool.fetchrow(
                "SELECT price_minor, currency FROM products WHERE product_id = $1", product_id
            )
            if row is None:
                raise Refused(404, "product_not_found")
            self._prices[product_id] = Money(minor=row["price_minor"], currency=row["currency"])
        return self._prices[product_id]

    async def charge(self, order_id: uuid.UUID, amount: Money) -> bool:
        """Charge an order; whether the money came. An unclear answer is asked for again under the same key."""
        for _ in range(CHARGES_MAX):
            answer = await self.gateway.charge(order_id=order_id, amount=amount, timeout_s=CHARGE_S)
            if answer.outcome is ChargeOutcome.CAPTURED:
                return True
            if answer.outcome is ChargeOutcome.DECLINED:
                return False
        cancelled = await self.gateway.cancel(order_id=order_id, timeout_s=CHARGE_S)
        return cancelled.outcome is ChargeOutcome.CAPTURED

    async def end(self, order_id: uuid.UUID, status: str) -> bool:
        """Write an order's last status once; whether this call wrote it."""
        done = await self.pool.execute(
            "UPDATE orders SET status = $2, version = version + 1, ended_at = clock_timestamp() "
            "WHERE order_id = $1 AND status IN ('accepted', 'paying')",
            order_id,
            status,
        )
        return done == "UPDATE 1"

    async def known(
        self, user_id: str, key: str | None, connection: PoolConnectionProxy[asyncpg.Record] | None = None
    ) -> uuid.UUID | None:
        """Return the order that an idempotency key has already made."""
        if key is None:
            return None
        statement = "SELECT order_id FROM orders WHERE user_id = $1 AND key = $2"
        found = await (connection or self.pool).fetchval(statement, user_id, key)
        return found if found is None else uuid.UUID(str(found))


class Body(msgspec.Struct):
    """What a buyer sends."""

    productId: int  # noqa: N815 - as on the wire


class Surface:
    """The routes, with what they answer from."""

    def __init__(self, shop: Shop) -> None:
        """Serve a shop."""
        self._shop = shop
        self._products: dict[int, dict[str, Any]] = {}
        self._buying: set[asyncio.Task[uuid.UUID]] = set()

    def app(self) -> Litestar:
        """Make the web application."""
        return Litestar(
            [
                post("/api/order/buy-flash", status_code=202)(self.buy),
                get("/api/order/{order_id:uuid}/status")(self.status),
                get("/api/products")(self.products),
                get("/api/products/{product_id:int}")(self.product),
                get("/sse/stock/{product_id:int}")(self.stream),
                get("/health/ready")(self.ready),
                *self._shop.routes(),
            ],
            exception_handlers={Refused: refused},
            after_exception=[logged],
            openapi_config=None,
            logging_config=None,
        )

    async def buy(self, request: Request[Any, Any, Any], data: JSONBody[Body]) -> dict[str, Any]:
        """Buy one unit."""
        user_id = self._user(request)
        sold = await self._known(data.productId)
        # A buyer who goes away ends the request, and must not end a payment half-way.
        buying = asyncio.create_task(self._shop.buy(user_id, data.productId, request.headers.get("idempotency-key")))
        self._buying.add(buying)
        buying.add_done_callback(self._bought)
        order_id = await asyncio.shield(buying)
        return {"orderId": str(order_id), "status": "accepted", "product": sold}

    async def status(self, request: Request[Any, Any, Any], order_id: FromPath[uuid.UUID]) -> dict[str, Any]:
        """Look at an order."""
        row = await self._shop.pool.fetchrow(
            "SELECT status, version FROM orders WHERE order_id = $1 AND user_id = $2", order_id, self._user(request)
        )
        if row is None:
            raise Refused(404, "order_not_found")
        return {"orderId": str(order_id), "status": row["status"], "version": row["version"]}

    async def products(self) -> list[dict[str, Any]]:
        """Look at everything that is on sale."""
        ids = [row["product_id"] for row in await self._shop.pool.fetch("SELECT product_id FROM products")]
        return [{**await self._known(one), "stock": await self._shop.stock(one)} for one in ids]

    async def product(self, product_id: FromPath[int]) -> dict[str, Any]:
        """Look at a product."""
        return {**await self._known(product_id), "stock": await self._shop.stock(product_id)}

    async def stream(self, product_id: FromPath[int]) -> ServerSentEvent:
        """Watch a product's stock."""
        await self._known(product_id)

        async def events() -> AsyncIterator[str]:
            version, before = 0, None
            async for stock in self._shop.stocks(product_id):
                if stock != before:
                    version, before = version + 1, stock
                    event = {"productId": product_id, "stock": max(stock, 0), "version": version}
                    yield msgspec.json.encode(event).decode()

        return ServerSentEvent(events())

    async def ready(self) -> dict[str, bool]:
        """Answer once the database does."""
        return {"ready": bool(await self._shop.pool.fetchval("SELECT true"))}

    def _bought(self, buying: asyncio.Task[uuid.UUID]) -> None:
        self._buying.discard(buying)
        if not buying.cancelled():
            buying.exception()

    def _user(self, request: Request[Any, Any, Any]) -> str:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        secret = self._shop.servers.jwt_secret
        try:
            return str(jwt.decode(token, secret, algorithms=["HS256"], options={"require": ["exp", "sub"]})["sub"])
        except jwt.InvalidTokenError:
            raise Refused(401, "unauthenticated") from None

    async def _known(self, product_id: int) -> dict[str, Any]:
        if product_id not in self._products:
            row = await self._shop.pool.fetchrow("SELECT * FROM products WHERE product_id = $1", product_id)
            if row is None:
                raise Refused(404, "product_not_found")
            price = str(Money(minor=row["price_minor"], currency=row["currency"]))
            said = {"id": product_id, "name": row["name"], "price": price, "currency": row["currency"], "quantity": 1}
            self._products[product_id] = said
        return self._products[product_id]


def refused(_: Request[Any, Any, Any], error: Refused) -> Response[dict[str, Any]]:
    """Answer a refusal."""
    headers = {"Retry-After": "1"} if error.status in {429, 503} else {}
    return Response({"status": error.status, "code": error.code}, status_code=error.status, headers=headers)


async def logged(error: Exception, _: Scope) -> None:
    """Write what is answered with 500 to the log of the process."""
    if not isinstance(error, Refused):
        traceback.print_exception(error)


class Served:
    """A Litestar app as the product's server takes it, so that all approaches run on the same server."""

    def __init__(self, app: Litestar) -> None:
        """Serve everything by the framework."""
        self._app = app

    def direct(self, _: object) -> Coroutine[Any, Any, Any] | None:
        """Leave every request to the framework."""
        return None

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)

    def refused(self, _: object) -> None:
        """Count nothing."""


async def serve(shop: Shop, sock: socket.socket, *, ready: Callable[[], None]) -> None:
    """Serve a shop until SIGTERM or SIGINT; `ready` is called once it takes requests."""
    stopping = _stopping()
    await shop.open()
    app = Surface(shop).app()
    server = Server(Served(app), HttpSettings())
    async with app.lifespan():
        await server.listen(sock)
        ready()
        await stopping.wait()
        await server.stop(leave_s=0.0, finish_s=1.0)
    await shop.close()


async def run_worker(shop: Shop, kind: str, *, ready: Callable[[], None]) -> None:
    """Run a worker until SIGTERM or SIGINT; `ready` is called once it takes work."""
    stopping = _stopping()
    await shop.open()
    working = asyncio.create_task(shop.work(kind))
    ready()
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    await shop.close()


def _stopping() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping
