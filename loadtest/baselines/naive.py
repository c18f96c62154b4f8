"""Read the stock, then write it: the shop of a developer who forgot concurrent buyers. It must oversell."""

from __future__ import annotations

import uuid

from baselines.shop import SOLD_OUT, Refused, Shop


class Naive(Shop):
    """Three statements, none of which knows of the others."""

    async def buy(self, user_id: str, product_id: int, key: str | None) -> uuid.UUID:
        """Read, decide, write, and charge while the buyer waits."""
        if (before := await self.known(user_id, key)) is not None:
            return before
        stock = await self.stock(product_id)
        if stock < 1:
            raise Refused(*SOLD_OUT)
        await self.pool.execute("UPDATE products SET stock = $2 WHERE product_id = $1", product_id, stock - 1)
        order_id = uuid.uuid4()
        await self.pool.execute(
            "INSERT INTO orders (order_id, user_id, product_id, quantity, key, status) "
            "VALUES ($1, $2, $3, 1, $4, 'paying')",
            order_id,
            user_id,
            product_id,
            key,
        )
        if await self.charge(order_id, await self.price(product_id)):
            await self.end(order_id, "confirmed")
        elif await self.end(order_id, "payment_failed"):
            await self.pool.execute("UPDATE products SET stock = stock + 1 WHERE product_id = $1", product_id)
        return order_id
