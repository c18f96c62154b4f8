import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from flashsale.domain.errors import ProductNotFound, Unavailable
from flashsale.domain.products import LiveStock
from flashsale.usecases.catalog import Catalog


async def test_a_known_product_has_its_stock():
    known = []

    async def products(_):
        return [(SimpleNamespace(product_id=1, starts_at=None, ends_at=None), datetime.now(UTC))]

    async def stocks(_):
        known.extend(catalog._entries)
        return [LiveStock(product_id=1, free=5, version=1)]

    catalog = Catalog(SimpleNamespace(all=products, stocks=stocks), poll_s=3600)
    await catalog.refresh()
    assert not known, "a product is known before its stock"
    assert catalog.waiting(catalog.all()[0].product_id) == 0


async def test_the_time_of_the_database_is_never_ahead_of_it():
    """A page that waits for the start by this time never comes too early, however long a reading took."""
    ahead = timedelta(hours=1)

    async def products(_):
        await asyncio.sleep(0.05)
        read = datetime.now(UTC) + ahead
        await asyncio.sleep(0.05)
        return [(SimpleNamespace(product_id=1, starts_at=None, ends_at=None), read)]

    async def stocks(_):
        return [LiveStock(product_id=1, free=5, version=1)]

    catalog = Catalog(SimpleNamespace(all=products, stocks=stocks), poll_s=3600)
    with pytest.raises(Unavailable):
        _ = catalog.now
    await catalog.refresh()
    for _ in range(3):
        told = catalog.now
        assert told <= datetime.now(UTC) + ahead
        assert datetime.now(UTC) + ahead - told < timedelta(seconds=60)
        await asyncio.sleep(0.01)
    assert catalog.now > told


async def test_products_that_were_never_read_are_not_an_empty_list():
    async def none(_):
        return []

    catalog = Catalog(SimpleNamespace(all=none, stocks=none), poll_s=3600)
    with pytest.raises(Unavailable):
        catalog.all()
    with pytest.raises(ProductNotFound):
        await catalog.get(1)
    with pytest.raises(Unavailable):
        catalog.all()
    await catalog.refresh()
    assert catalog.all() == []


async def test_a_product_is_found_as_soon_as_there_is_one_whoever_asks_for_others_meanwhile():
    """Another process created it: a look a moment ago for an id that there is not says nothing of this one."""
    known, reads = {1}, []

    async def products(ids):
        reads.append(ids)
        now = datetime.now(UTC)
        return [
            (SimpleNamespace(product_id=one, starts_at=None, ends_at=None), now)
            for one in sorted(known)
            if ids is None or one in ids
        ]

    async def stocks(ids):
        return [LiveStock(product_id=one, free=5, version=1) for one in known if ids is None or one in ids]

    catalog = Catalog(SimpleNamespace(all=products, stocks=stocks), poll_s=3600)
    await catalog.refresh()
    for number in range(2, 6):
        with pytest.raises(ProductNotFound):
            await catalog.get(1000 * number)
        known.add(number)
        assert (await catalog.get(number)).product_id == number
    reads.clear()
    asked = [catalog.get(number) for number in range(10_000, 10_400)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(one) for one in found} == {ProductNotFound}
    assert len(reads) <= 4, "ids that come together are looked for together"
