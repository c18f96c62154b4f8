"""A product that Postgres refuses to change keeps no other product waiting."""

import asyncio
from types import SimpleNamespace

import pytest

from flashsale.domain.errors import Unavailable
from flashsale.domain.gate import GateState
from flashsale.usecases import reconcile
from flashsale.usecases.ports import LiveEpoch, PoisonBatch
from flashsale.usecases.reconcile import Reconcile
from flashsale.usecases.tend_units import TendUnits

REFUSALS = [PoisonBatch("new row violates a check", unknown_user=False), Unavailable("locked")]
PRODUCTS = [1, 2, 3, 4]


@pytest.mark.parametrize("error", REFUSALS)
@pytest.mark.parametrize("wrong", PRODUCTS)
async def test_units_of_the_others_are_made(wrong, error):
    waiting = list(PRODUCTS)

    async def open_pools(*, ahead, limit):
        return list(waiting)

    async def tend_units(product_id, *, most):
        if product_id == wrong:
            raise error
        waiting.remove(product_id)
        return most

    async with asyncio.timeout(60):
        await TendUnits(SimpleNamespace(open_pools=open_pools, tend_units=tend_units), chunk=1, ahead=1)()
    assert waiting == [wrong]


@pytest.mark.parametrize("error", REFUSALS)
@pytest.mark.parametrize("wrong", PRODUCTS)
async def test_gates_of_the_others_that_count_wrong_are_loaded(wrong, error, monkeypatch):
    monkeypatch.setattr(reconcile, "OFF_S", 0)
    low = GateState(loaded=True, epoch=1, stock=1, leases=0, leased_units=0, leased_order_ids=())
    loaded = []

    async def nothing():
        return None

    async def live():
        return [LiveEpoch(product_id=product_id, epoch=1, free=2, version=1) for product_id in PRODUCTS]

    async def owed(product_ids):
        return dict.fromkeys(product_ids, 2)

    async def states(epochs):
        return dict.fromkeys(epochs, low)

    async def load(product_id, *, seen_epoch):
        if product_id == wrong:
            raise error
        loaded.append(product_id)

    await Reconcile(
        books=SimpleNamespace(live=live, owed=owed),
        gate=SimpleNamespace(states=states, away=lambda _: False),
        acceptance=None,
        load_gate=load,
        return_units=nothing,
        limit=10,
        idle=10,
        budget_s=20,
    )()
    assert loaded == [product_id for product_id in PRODUCTS if product_id != wrong]
