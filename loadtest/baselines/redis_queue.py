"""DECR as the decision, a Redis list as the queue: the buyer is answered before anything is on disk."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import TYPE_CHECKING

from baselines.shop import BUSY, SOLD_OUT, Refused, Shop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUEUE_MAX = 10_000
"""Orders that may wait; more buyers get a 503."""
POP_S = 1.0
PAYMENTS_AT_ONCE = 50


class RedisQueue(Shop):
    """DECR, then LPUSH; BRPOP by order workers and payment workers; the stock is published."""

    workers = ("orders", "payments")

    async def create(self, product_id: int, *, name: str, price_minor: int, currency: str, stock: int) -> None:
        """Put a product on sale, its counter in Redis."""
        await super().create(product_id, name=name, price_minor=price_minor, currency=currency, stock=stock)
        await self.redis.set(f"stock:{product_id}", stock)

    async def buy(self, user_id: str, product_id: int, key: str | None) -> uuid.UUID:
        """Count down and queue the order."""
        order_id = uuid.uuid4()
        name = f"key:{user_id}:{key}"
        if key is not None and not await self.redis.set(name, str(order_id), nx=True, ex=3600):
            return uuid.UUID(await self.redis.get(name))
        if await self.redis.llen("orders") >= QUEUE_MAX:
            await self.redis.delete(name)
            raise Refused(*BUSY)
        left = await self.redis.decr(f"stock:{product_id}")
        if left < 0:
            await self.redis.incr(f"stock:{product_id}")
            await self.redis.delete(name)
            raise Refused(*SOLD_OUT)
        order = {"order_id": str(order_id), "user_id": user_id, "product_id": product_id, "key": key, "at": time.time()}
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.lpush("orders", json.dumps(order))
            pipe.publish(f"stock:{product_id}", left)
            await pipe.execute()
        return order_id

    async def stock(self, product_id: int) -> int:
        """Return what the counter says."""
        return max(0, int(await self.redis.get(f"stock:{product_id}") or 0))

    async def stocks(self, product_id: int) -> AsyncIterator[int]:
        """Return what is published."""
        yield await self.stock(product_id)
        async with self.redis.pubsub() as channel:
            await channel.subscribe(f"stock:{product_id}")
            async for message in channel.listen():
                if message["type"] == "message":
                    yield int(message["data"])

    async def waiting(self, product_id: int) -> int:
        """Return the length of both lists."""
        del product_id
        return int(await self.redis.llen("orders")) + int(await self.redis.llen("payments"))

    async def work(self, kind: str) -> None:
        """Pop and handle, for ever."""
        if kind == "orders":
            await self._write_orders()
        else:
            await asyncio.gather(*(self._pay() for _ in range(PAYMENTS_AT_ONCE)))

    async def _write_orders(self) -> None:
        while True:
            popped = await self.redis.brpop(["orders"], timeout=POP_S)
            if popped is None:
                continue
            order = json.loads(popped[1])
            await self.pool.execute(
                "INSERT INTO orders (order_id, user_id, product_id, quantity, key, status, created_at) "
                "VALUES ($1, $2, $3, 1, $4, 'accepted', to_timestamp($5))",
                uuid.UUID(order["order_id"]),
                order["user_id"],
                order["product_id"],
                order["key"],
                order["at"],
            )
            await self.redis.lpush("payments", popped[1])

    async def _pay(self) -> None:
        while True:
            popped = await self.redis.brpop(["payments"], timeout=POP_S)
            if popped is None:
                continue
            order = json.loads(popped[1])
            order_id, product_id = uuid.UUID(order["order_id"]), order["product_id"]
            if await self.charge(order_id, await self.price(product_id)):
                await self.end(order_id, "confirmed")
            elif await self.end(order_id, "payment_failed"):
                left = await self.redis.incr(f"stock:{product_id}")
                await self.redis.publish(f"stock:{product_id}", left)
