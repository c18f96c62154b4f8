"""A reservation by a Lua script, a stream as the broker, and a time limit after which an unpaid unit goes back.

No AMQP broker comes as a package of Python's or runs without a separate server; a Redis stream with a consumer
group stands for it: messages are acknowledged, and those of a dead worker are claimed by another.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from baselines.shop import CHARGE_S, SOLD_OUT, Refused, Shop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RESERVED_S = 30
"""How long a reservation holds its unit without a payment."""
RATE_MAX = 10
"""Requests of one buyer in RATE_S seconds."""
RATE_S = 1
CLAIM_MS = 5000
"""A message that nobody acknowledged for so long belongs to a dead worker."""
TRIES_MAX = 3
"""Deliveries of a message before it goes to the dead letters."""
BATCH = 50

RESERVE = """
-- KEYS: stock, request id, rate, reservations, stream. ARGV: order, user, product, key, now, deadline.
local known = redis.call('GET', KEYS[2])
if known then return {'known', known} end
if redis.call('INCR', KEYS[3]) == 1 then redis.call('EXPIRE', KEYS[3], tonumber(ARGV[7])) end
if tonumber(redis.call('GET', KEYS[3])) > tonumber(ARGV[8]) then return {'rate_limited', ''} end
if tonumber(redis.call('GET', KEYS[1]) or '0') < 1 then return {'sold_out', ''} end
local left = redis.call('DECR', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1], 'EX', 3600)
redis.call('ZADD', KEYS[4], ARGV[6], ARGV[1] .. ':' .. ARGV[3])
redis.call('XADD', KEYS[5], '*', 'order', ARGV[1], 'user', ARGV[2], 'product', ARGV[3], 'key', ARGV[4], 'at', ARGV[5])
redis.call('PUBLISH', KEYS[1], left)
return {'reserved', ARGV[1]}
"""

RELEASE = """
-- KEYS: reservations, stock. ARGV: member. The reservation goes once, and its unit with it.
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
    redis.call('PUBLISH', KEYS[2], redis.call('INCR', KEYS[2]))
    return 1
end
return 0
"""


class Lua(Shop):
    """Reserve atomically, work the stream off, and return what is not paid in time."""

    workers = ("orders", "expiry")
    waits_s = CLAIM_MS / 1000 + CHARGE_S

    async def open(self) -> None:
        """Connect, and make the consumer group."""
        await super().open()
        try:
            await self.redis.xgroup_create("reservations:stream", "workers", id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def create(self, product_id: int, *, name: str, price_minor: int, currency: str, stock: int) -> None:
        """Put a product on sale, its counter in Redis."""
        await super().create(product_id, name=name, price_minor=price_minor, currency=currency, stock=stock)
        await self.redis.set(f"stock:{product_id}", stock)

    async def buy(self, user_id: str, product_id: int, key: str | None) -> uuid.UUID:
        """Reserve a unit by one script."""
        order_id, now = uuid.uuid4(), time.time()
        keys = [
            f"stock:{product_id}",
            f"request:{user_id}:{key or order_id}",
            f"rate:{user_id}",
            "reservations",
            "reservations:stream",
        ]
        values = [str(order_id), user_id, product_id, key or "", now, now + RESERVED_S, RATE_S, RATE_MAX]
        outcome, order = await self.redis.eval(RESERVE, len(keys), *keys, *values)
        if outcome == "rate_limited":
            raise Refused(429, "rate_limited")
        if outcome == "sold_out":
            raise Refused(*SOLD_OUT)
        return uuid.UUID(order)

    async def stock(self, product_id: int) -> int:
        """Return what the counter says."""
        return int(await self.redis.get(f"stock:{product_id}") or 0)

    async def stocks(self, product_id: int) -> AsyncIterator[int]:
        """Return what is published."""
        yield await self.stock(product_id)
        async with self.redis.pubsub() as channel:
            await channel.subscribe(f"stock:{product_id}")
            async for message in channel.listen():
                if message["type"] == "message":
                    yield int(message["data"])

    async def waiting(self, product_id: int) -> int:
        """Return the messages that nobody has acknowledged."""
        del product_id
        groups = await self.redis.xinfo_groups("reservations:stream")
        return sum(int(group["pending"]) + int(group["lag"] or 0) for group in groups)

    async def work(self, kind: str) -> None:
        """Work the stream off, or return reservations that are past their time."""
        await (self._consume() if kind == "orders" else self._expire())

    async def _consume(self) -> None:
        me = uuid.uuid4().hex
        while True:
            _, claimed, *_ = await self.redis.xautoclaim("reservations:stream", "workers", me, CLAIM_MS, count=BATCH)
            read = await self.redis.xreadgroup("workers", me, {"reservations:stream": ">"}, count=BATCH, block=500)
            fresh = read[0][1] if read else []
            await asyncio.gather(*(self._handle(number, fields) for number, fields in [*claimed, *fresh]))

    async def _handle(self, number: str, fields: dict[str, Any]) -> None:
        """Write the order, charge, and acknowledge; what fails again and again becomes a dead letter."""
        order_id, product_id = uuid.UUID(fields["order"]), int(fields["product"])
        member = f"{order_id}:{product_id}"
        try:
            await self.pool.execute(
                "INSERT INTO orders (order_id, user_id, product_id, quantity, key, status, created_at) "
                "VALUES ($1, $2, $3, 1, $4, 'paying', to_timestamp($5)) ON CONFLICT DO NOTHING",
                order_id,
                fields["user"],
                product_id,
                fields["key"] or None,
                float(fields["at"]),
            )
            paid = await self.charge(order_id, await self.price(product_id))
            if paid and await self.redis.zrem("reservations", member):
                await self.end(order_id, "confirmed")
            elif await self.end(order_id, "payment_failed"):
                await self.redis.eval(RELEASE, 2, "reservations", f"stock:{product_id}", member)
        except Exception:
            pending = await self.redis.xpending_range("reservations:stream", "workers", number, number, 1)
            if not pending or pending[0]["times_delivered"] < TRIES_MAX:
                raise
            await self.redis.xadd("reservations:dead", fields)
        await self.redis.xack("reservations:stream", "workers", number)

    async def _expire(self) -> None:
        while True:
            for member in await self.redis.zrangebyscore("reservations", 0, time.time(), start=0, num=BATCH):
                order, _, product_id = member.rpartition(":")
                if await self.redis.eval(RELEASE, 2, "reservations", f"stock:{product_id}", member):
                    await self.end(uuid.UUID(order), "expired")
            await asyncio.sleep(0.25)
