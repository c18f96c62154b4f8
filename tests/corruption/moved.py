"""A product that left for another cell, and one that arrived, for the audit of moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
from redis.asyncio import Redis

from flashsale.domain.products import PAUSED
from tests.conftest import add_product

if TYPE_CHECKING:
    from tests.corruption.sale import SoundSale

MOVE = """
    SELECT leave_cell_v1({product}, gen_random_uuid(), 1, false);
    UPDATE products SET moved_to = 10000001 WHERE product_id = {product};
    SELECT enter_cell_v1(
        gen_random_uuid(), 10000002, true, 'Arrived', 5000, 'USD', 4, 'automatic', 300, NULL, 'account', 0, false, NULL, NULL
    );
"""
"""Paused, so that it needs no gate."""


async def move_others(sale: SoundSale) -> None:
    """Let a product leave, and another one arrive."""
    product = await add_product(sale.services, name="Left", allotment=3)
    await sale.services.administer.change(product.product_id, PAUSED)
    connection = await asyncpg.connect(sale.services.settings.postgres.url.get_secret_value())
    await connection.execute(MOVE.format(product=product.product_id))
    await connection.close()
    async with Redis.from_url(sale.services.settings.redis.url.get_secret_value()) as redis:
        await redis.delete(*[key async for key in redis.scan_iter(f"flashsale:{{{product.product_id}}}:*")])
