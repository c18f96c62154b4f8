"""A lock per product in Redis (SET NX with an expiry); a request that does not get the lock is told to come back."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING

from litestar import get
from litestar.response import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from baselines.shop import SOLD_OUT, Refused
from baselines.synchronous import ORDER, Synchronous

if TYPE_CHECKING:
    from litestar.handlers import HTTPRouteHandler

LOCK_S = 5
"""The lock's expiry: longer than one decision, so that only a holder that died loses it."""

LOCKED = (409, "locked")

UNLOCK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
"""Delete the lock only if it is still ours: an expired lock may be another buyer's by now."""


BUYS = Counter("mutex_buys", "Buys by answer.", ["answer"])
LOCKS = Counter("mutex_locks", "Tries to take the lock of a product.", ["taken"])
HELD = Histogram("mutex_lock_held_seconds", "Time for which a lock is held.")
STOCK = Gauge("mutex_stock", "Units left, as the last holder of the lock read them.", multiprocess_mode="mostrecent")


async def metrics() -> Response[bytes]:
    """Show what all processes of the approach have counted."""
    shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
    registry = CollectorRegistry() if shared else REGISTRY
    if shared:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class Mutex(Synchronous):
    """Read and write under the lock; the provider is asked after the lock is given back."""

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the route of the metrics."""
        return [get("/metrics")(metrics)]

    async def buy(self, user_id: str, product_id: int, key: str | None) -> uuid.UUID:
        """Sell one unit, and count the answer."""
        try:
            order_id = await self._buy(user_id, product_id, key)
        except Refused as refused:
            BUYS.labels(refused.code).inc()
            raise
        BUYS.labels("accepted").inc()
        return order_id

    async def _buy(self, user_id: str, product_id: int, key: str | None) -> uuid.UUID:
        """Take the lock or refuse; read, decide and write under the lock; then charge."""
        if (before := await self.known(user_id, key)) is not None:
            return before
        order_id, lock = uuid.uuid4(), f"lock:{product_id}"
        taken = await self.redis.set(lock, str(order_id), nx=True, ex=LOCK_S)
        LOCKS.labels("yes" if taken else "no").inc()
        if not taken:
            raise Refused(*LOCKED)
        since = time.perf_counter()
        try:
            stock = await self.stock(product_id)
            STOCK.set(stock)
            if stock < 1:
                raise Refused(*SOLD_OUT)
            async with self.pool.acquire() as connection, connection.transaction():
                # Not `stock - 1` as it was read: declined payments give units back without the lock.
                await connection.execute("UPDATE products SET stock = stock - 1 WHERE product_id = $1", product_id)
                if await connection.fetchval(ORDER, order_id, user_id, product_id, key) is None:
                    raise Refused(*LOCKED)
        finally:
            await self.redis.eval(UNLOCK, 1, lock, str(order_id))
            HELD.observe(time.perf_counter() - since)
        if await self.charge(order_id, await self.price(product_id)):
            await self.end(order_id, "confirmed")
        else:
            await self._give_back(order_id, product_id)
        return order_id
