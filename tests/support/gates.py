"""Ask the gate, and read what it counts."""

import asyncio

from flashsale.domain.requests import BuyRequest
from tests.support.accepting import new_id


def ask(product, user, *, key=None, quantity=1):
    return BuyRequest(user_id=user, product_id=product.product_id, quantity=quantity, key=key)


async def state(services, product):
    return await services.gate.state(product.product_id, product.epoch)


async def flushed(services, product, check):
    """Wait until settled and returned leases have reached the gate."""
    for _ in range(6000):
        if check(found := await state(services, product)):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(found)


async def admit(services, product, user, **kwargs):
    return await services.gate.admit(product, new_id(), ask(product, user, **kwargs))
