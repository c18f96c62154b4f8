"""A lock per product in Redis (SET NX with an expiry); a request that does not get the lock is told to come back."""

from __future__ import annotations

import uuid

from baselines.shop import SOLD_OUT, Refused
from baselines.synchronous import ORDER, Synchronous

LOCK_S = 5
"""The lock's expiry: longer than one decision, so that only a holder that died loses it."""

LOCKED = (409, "locked")

UNLOCK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
"""Delete the lock only if it is still ours: an expired lock may be another buyer's by now."""


class Mutex(Synchronous):
    """Read and write under the lock; the provider is asked after the lock is given back."""

    async def buy(self, user_id: str, product_id: int, key: str | None) -> uuid.UUID:
        """Take the lock or refuse; read, decide and write under the lock; then charge."""
        if (before := await self.known(user_id, key)) is not None:
            return before
        order_id, lock = uuid.uuid4(), f"lock:{product_id}"
        if not await self.redis.set(lock, str(order_id), nx=True, ex=LOCK_S):
            raise Refused(*LOCKED)
        try:
            stock = await self.stock(product_id)
            if stock < 1:
                raise Refused(*SOLD_OUT)
            async with self.pool.acquire() as connection, connection.transaction():
                # Not `stock - 1` as it was read: declined payments give units back without the lock.
                await connection.execute("UPDATE products SET stock = stock - 1 WHERE product_id = $1", product_id)
                if await connection.fetchval(ORDER, order_id, user_id, product_id, key) is None:
                    raise Refused(*LOCKED)
        finally:
            await self.redis.eval(UNLOCK, 1, lock, str(order_id))
        if await self.charge(order_id, await self.price(product_id)):
            await self.end(order_id, "confirmed")
        else:
            await self._give_back(order_id, product_id)
        return order_id
