"""Products, as everybody sees them."""

from __future__ import annotations

from litestar import get
from litestar.params import FromPath

from flashsale.http.schemas import ProductOut, product_out
from flashsale.http.services import UseServices


@get("/api/products", summary="List products", tags=["products"])
async def list_products(services: UseServices) -> list[ProductOut]:
    """Give every product with its free units."""
    return [product_out(product, services.catalog.stock(product.product_id)) for product in services.catalog.all()]


@get("/api/products/{product_id:int}", summary="Look at a product", tags=["products"])
async def one_product(product_id: FromPath[int], services: UseServices) -> ProductOut:
    """Give a product with its free units."""
    product = await services.catalog.get(product_id)
    return product_out(product, services.catalog.stock(product_id))
