"""A product that sells while something else happens: how long its buys take."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashsale.domain.errors import Unavailable
from flashsale.domain.money import Money
from flashsale.domain.products import NewProduct, PaymentMode
from flashsale.domain.requests import BuyRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.usecases.services import Services

BUYERS = 500


@dataclass(slots=True)
class Buys:
    """What buyers saw in some time."""

    seconds: float = 0.0
    took_s: list[float] = field(default_factory=list)
    """Of each 202."""
    busy: int = 0
    """Buys that were told to come again."""

    def quantile_ms(self, share: float) -> float:
        """Return the time within which a share of the buys was answered."""
        ordered = sorted(self.took_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000 if ordered else float("nan")


class HotSale:
    """One product with units for everybody, and buyers who come at a steady rate, whatever the answers take."""

    def __init__(self, services: Services, product_id: int, users: Sequence[UUID]) -> None:
        self._services = services
        self._product_id = product_id
        self._users = users

    @classmethod
    async def opened(cls, services: Services, *, units: int) -> HotSale:
        """Put a product on sale and create its buyers."""
        product = await services.administer.create(
            NewProduct(
                name="Hot phone",
                price=Money(minor=99_999, currency="USD"),
                allotment=units,
                payment_mode=PaymentMode.AUTOMATIC,
                payment_window_s=300,
                limit_per_buyer=None,
                starts_at=None,
                ends_at=None,
            )
        )
        return cls(services, product.product_id, await services.users.create_buyers(BUYERS, prefix="hot"))

    async def sell(self, *, rate: float, until: asyncio.Event) -> Buys:
        """Buy at so many buys per second until an event."""
        buys, began_s, made = Buys(), time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while not until.is_set():
                due = int((time.perf_counter() - began_s) * rate)
                while made < due:
                    group.create_task(self._buy(self._users[made % len(self._users)], buys))
                    made += 1
                await asyncio.sleep(0.002)
        buys.seconds = time.perf_counter() - began_s
        return buys

    async def _buy(self, user_id: UUID, buys: Buys) -> None:
        began_s = time.perf_counter()
        try:
            await self._services.buy(BuyRequest(user_id=user_id, product_id=self._product_id, quantity=1, key=None))
        except Unavailable:
            buys.busy += 1
        else:
            buys.took_s.append(time.perf_counter() - began_s)


async def after(seconds: float) -> asyncio.Event:
    """Return an event that is set after some seconds."""
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, event.set)
    return event
