from types import SimpleNamespace

import pytest

from flashsale.domain.errors import ProductNotFound, Unavailable
from flashsale.domain.products import LiveStock
from flashsale.usecases.catalog import Catalog


async def test_a_known_product_has_its_stock():
    known = []

    async def products(_):
        return [(SimpleNamespace(product_id=1), None, None)]

    async def stocks(_):
        known.extend(catalog._entries)
        return [LiveStock(product_id=1, free=5, version=1)]

    catalog = Catalog(SimpleNamespace(all=products, stocks=stocks), poll_s=3600)
    await catalog.refresh()
    assert not known, "a product is known before its stock"
    assert catalog.waiting(catalog.all()[0].product_id) == 0


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
