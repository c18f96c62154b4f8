"""A sale in files only, for the audit of what stays of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from flashsale.domain.money import Money
from tests.support.archiving import FATES, archiving, finish, sold

if TYPE_CHECKING:
    from flashsale.domain.payments import ChargeAnswer, ChargeOutcome, NoAnswer, Refund
    from tests.corruption.sale import Gateway, SoundSale

CURRENCY = "EUR"
"""The currency of the orders that are in files only, and of no others."""


async def archive_another(sale: SoundSale) -> None:
    """Sell a third product to its end, and let its orders leave the tables for files."""
    price = Money(minor=1000, currency=CURRENCY)
    steered = Steered(sale.gateway)
    product, orders = await sold(sale.services, steered, steered, price=price)
    assert len(orders) == len(FATES)
    await finish(sale.services, product)
    with tempfile.TemporaryDirectory(prefix="flashsale-") as folder:
        await archiving(sale.services, Path(folder))(product.product_id)
    # A product that is not on sale needs no gate.
    async with Redis.from_url(sale.services.settings.redis.url.get_secret_value()) as redis:
        await redis.delete(*[key async for key in redis.scan_iter(f"flashsale:{{{product.product_id}}}:*")])


class Steered:
    """The sale's gateway, as what sells the third product steers it."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.outcomes: list[ChargeOutcome] = []

    async def charge(self, **asked: Any) -> ChargeAnswer:
        self.gateway.outcome = self.outcomes.pop(0)
        return await self.gateway.charge(**asked)

    async def refund(self, **asked: Any) -> Refund | NoAnswer:
        return await self.gateway.refund(**asked)

    async def look_up(self, **asked: Any) -> Any:
        return await self.gateway.look_up(**asked)
