"""Products, for every client."""

from __future__ import annotations

from http import HTTPStatus

from litestar import get
from litestar.params import FromPath

from flashsale.http.operations import SERVERS, Given, Operation
from flashsale.http.schemas import ProductOut, product_out
from flashsale.http.services import UseServices

LIST = Operation(
    name="listProducts",
    summary="List products",
    description="Return every product with its free units.",
    tag="products",
    gives=(Given(status=HTTPStatus.OK, description="All products.", model=list[ProductOut]),),
    codes=("internal",),
)
LOOK = Operation(
    name="getProduct",
    summary="Look at a product",
    description="Return a product with its free units.",
    tag="products",
    gives=(Given(status=HTTPStatus.OK, description="The product.", model=ProductOut),),
    codes=("product_not_found", *SERVERS),
)


@get("/api/products", opt={"operation": LIST})
async def list_products(services: UseServices) -> list[ProductOut]:
    """Return every product with its free units."""
    return [product_out(product, services.catalog.stock(product.product_id)) for product in services.catalog.all()]


@get("/api/products/{product_id:int}", opt={"operation": LOOK})
async def one_product(product_id: FromPath[int], services: UseServices) -> ProductOut:
    """Return a product with its free units."""
    product = await services.catalog.get(product_id)
    return product_out(product, services.catalog.stock(product_id))
