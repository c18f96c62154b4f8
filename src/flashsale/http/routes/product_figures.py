"""Products with what was sold of them, for administrators."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from litestar import Response, get
from litestar.params import FromPath, FromQuery, QueryParameter

from flashsale.http.admin_schemas import ProductFiguresOut, product_figures_out
from flashsale.http.operations import SERVERS, Given, Operation, Parameter
from flashsale.http.routes.changes import rendered_as, response_of
from flashsale.http.services import UseServices
from flashsale.usecases.product_figures import PAGE_MAX

LIST = Operation(
    name="listAdminProducts",
    summary="List products with what was sold of them",
    description="List products, the newest first, a page at a time, with claimed and sold units, revenue and refunds.",
    tag="administration",
    caller="staff",
    limit="administration",
    parameters=(
        Parameter(
            name="archived",
            place="query",
            schema={"type": "boolean", "default": False},
            description="Whether to list the products that are archived; otherwise those that are not.",
            example=False,
        ),
        Parameter(
            name="before",
            place="query",
            schema={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
            description="The last product id of the previous page.",
            example=7,
        ),
        Parameter(
            name="limit",
            place="query",
            schema={"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": 100},
            description="Maximum number of products in a page.",
            example=100,
        ),
    ),
    gives=(Given(status=HTTPStatus.OK, description="A page of products.", model=list[ProductFiguresOut]),),
    codes=SERVERS,
)
LOOK = Operation(
    name="getAdminProduct",
    summary="Look at a product as an administrator",
    description="Return a product with everything that can be set, and what was sold of it.",
    tag="administration",
    caller="staff",
    limit="administration",
    gives=(Given(status=HTTPStatus.OK, description="The product.", model=ProductFiguresOut),),
    codes=("product_not_found", *SERVERS),
)


@get("/products", opt={"operation": LIST})
async def list_products(
    services: UseServices,
    archived: FromQuery[bool] = False,  # noqa: FBT002 - the framework passes it by name
    before: Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)] = 100,
) -> list[ProductFiguresOut]:
    """List products with what was sold of them."""
    found = await services.read_products.page(archived=archived, before=before, limit=limit)
    return [product_figures_out(one) for one in found]


@get("/products/{product_id:int}", opt={"operation": LOOK})
async def admin_product(product_id: FromPath[int], services: UseServices) -> Response[bytes]:
    """Return a product with everything that can be set, and what was sold of it."""
    found = await services.read_products.one(product_id)
    return response_of(rendered_as(product_figures_out(found), found.product, HTTPStatus.OK))
