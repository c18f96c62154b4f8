from types import SimpleNamespace

from flashsale.domain.products import LiveStock
from flashsale.usecases.catalog import Catalog


async def test_whoever_finds_a_product_finds_its_stock():
    known = []

    async def products():
        return [(SimpleNamespace(product_id=1), None, None)]

    async def stocks():
        known.extend(catalog.all())
        return [LiveStock(product_id=1, free=5, version=1)]

    catalog = Catalog(SimpleNamespace(all=products, stocks=stocks), poll_s=3600)
    await catalog.refresh()
    assert not known, "a product is known before its stock"
    assert catalog.waiting(catalog.all()[0].product_id) == 0
