"""One guarded UPDATE, and the payment inside the request; and the variant that locks the row over the payment."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import asyncpg

from baselines.shop import BUSY, SOLD_OUT, Refused, Shop

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

WAIT_S = 3.0
"""How long a buyer waits for a connection or a lock before a 503."""

ORDER = (
    "INSERT INTO orders (order_id, user_id, product_id, quantity, key, status) VALUES ($1, $2, $3, 1, $4, 'paying') "
    "ON CONFLICT DO NOTHING RETURNING order_id"
)


class Synchronous(Shop):
    """The unit is taken in a short transaction; nothing is locked while the provider is asked."""

    async def buy(self, user_id: str, product_id: int, key: str | None) -> uuid.UUID:
        """Take a unit and the order in one COMMIT, charge, and give the unit back if there is no money."""
        if (before := await self.known(user_id, key)) is not None:
            return before
        order_id = uuid.uuid4()
        try:
            async with self.pool.acquire(timeout=WAIT_S) as connection, connection.transaction():
                await self._take(connection, product_id)
                if await connection.fetchval(ORDER, order_id, user_id, product_id, key) is None:
                    raise Refused(*BUSY)
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            raise Refused(*BUSY) from None
        if await self.charge(order_id, await self.price(product_id)):
            await self.end(order_id, "confirmed")
        else:
            await self._give_back(order_id, product_id)
        return order_id

    @staticmethod
    async def _take(connection: PoolConnectionProxy[asyncpg.Record], product_id: int) -> None:
        taken = await connection.execute(
            "UPDATE products SET stock = stock - 1 WHERE product_id = $1 AND stock > 0", product_id
        )
        if taken != "UPDATE 1":
            raise Refused(*SOLD_OUT)

    async def _give_back(self, order_id: uuid.UUID, product_id: int) -> None:
        async with self.pool.acquire() as connection, connection.transaction():
            done = await connection.execute(
                "UPDATE orders SET status = 'payment_failed', version = version + 1, ended_at = clock_timestamp() "
                "WHERE order_id = $1 AND status = 'paying'",
                order_id,
            )
            if done == "UPDATE 1":
                await connection.execute("UPDATE products SET stock = stock + 1 WHERE product_id = $1", product_id)


class RowLock(Synchronous):
    """SELECT FOR UPDATE, held while the provider is asked: one buyer after the other."""

    async def buy(self, user_id: str, product_id: int, key: str | None) -> uuid.UUID:
        """Lock the product, charge, write, and unlock."""
        # Before the lock: everybody who waits for it holds a connection, and none may be left.
        amount = await self.price(product_id)
        order_id = uuid.uuid4()
        try:
            async with self.pool.acquire(timeout=WAIT_S) as connection:
                if (before := await self.known(user_id, key, connection)) is not None:
                    return before
                async with connection.transaction():
                    # A lock_timeout starts again with each version of the row, and every buyer who pays writes one.
                    await connection.execute(f"SET LOCAL statement_timeout = '{WAIT_S:g}s'")
                    stock = await connection.fetchval(
                        "SELECT stock FROM products WHERE product_id = $1 FOR UPDATE", product_id
                    )
                    if stock < 1:
                        raise Refused(*SOLD_OUT)
                    if await connection.fetchval(ORDER, order_id, user_id, product_id, key) is None:
                        raise Refused(*BUSY)
                    paid = await self.charge(order_id, amount)
                    await connection.execute(
                        "UPDATE orders SET status = $2, version = 2, ended_at = clock_timestamp() WHERE order_id = $1",
                        order_id,
                        "confirmed" if paid else "payment_failed",
                    )
                    if paid:
                        await connection.execute(
                            "UPDATE products SET stock = stock - 1 WHERE product_id = $1", product_id
                        )
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            raise Refused(*BUSY) from None
        return order_id
