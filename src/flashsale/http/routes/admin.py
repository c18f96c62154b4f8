"""What administrators do."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, Router, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from flashsale.domain.errors import InvalidInput
from flashsale.domain.money import parse_money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import NewProduct, PaymentMode, ProductChange
from flashsale.http import problems
from flashsale.http.auth import admin_only
from flashsale.http.bodies import body_of
from flashsale.http.fields import ORDER_ID
from flashsale.http.limits import limited
from flashsale.http.messages import Request as Received
from flashsale.http.operations import SERVERS, Given, Operation, Parameter
from flashsale.http.schemas import (
    AdminProductOut,
    NewProductIn,
    OrderOut,
    ProductChangeIn,
    StockIn,
    admin_product_out,
    order_out,
)
from flashsale.http.services import UseServices

_OF_PRODUCT = {"product_id": "$response.body#/id"}
_CHANGED = Given(status=HTTPStatus.OK, description="The product as it is now.", model=AdminProductOut)
SET_STOCK = Operation(
    name="setStock",
    summary="Set a product's allotment",
    description="Set how many units exist, never below what orders hold; repeating it changes nothing.",
    tag="administration",
    caller="admin",
    limit="administration",
    takes=StockIn,
    gives=(_CHANGED,),
    codes=("product_not_found", "allotment_below_claimed", *SERVERS),
)
CREATE = Operation(
    name="createProduct",
    summary="Create a product",
    description="Create a product with its units; `stock` is the allotment.",
    tag="administration",
    caller="admin",
    limit="administration",
    takes=NewProductIn,
    gives=(
        Given(
            status=HTTPStatus.CREATED,
            description="The new product.",
            model=AdminProductOut,
            links={
                **dict.fromkeys(("getProduct", "getAdminProduct", "changeProduct"), _OF_PRODUCT),
                **dict.fromkeys(("pauseSale", "resumeSale", "watchStock"), _OF_PRODUCT),
                "setStock": {"body": {"productId": "$response.body#/id", "stock": 10}},
                "buy": {"body": {"productId": "$response.body#/id"}},
                "listOrders": {"productId": "$response.body#/id"},
            },
        ),
    ),
    codes=(*SERVERS, "outcome_unknown"),
)
LOOK = Operation(
    name="getAdminProduct",
    summary="Look at a product as an administrator",
    description="Give a product with everything that can be set.",
    tag="administration",
    caller="admin",
    limit="administration",
    gives=(Given(status=HTTPStatus.OK, description="The product.", model=AdminProductOut),),
    codes=("product_not_found", *SERVERS),
)
CHANGE = Operation(
    name="changeProduct",
    summary="Change a product",
    description="Change what is sent; a field that is left out stays.",
    tag="administration",
    caller="admin",
    limit="administration",
    takes=ProductChangeIn,
    gives=(_CHANGED,),
    codes=("product_not_found", *SERVERS),
)
PAUSE = Operation(
    name="pauseSale",
    summary="Pause a sale",
    description="Accept nothing more until the sale is resumed.",
    tag="administration",
    caller="admin",
    limit="administration",
    gives=(_CHANGED,),
    codes=("product_not_found", *SERVERS),
)
RESUME = Operation(
    name="resumeSale",
    summary="Resume a sale",
    description="Go on selling.",
    tag="administration",
    caller="admin",
    limit="administration",
    gives=(_CHANGED,),
    codes=("product_not_found", *SERVERS),
)
LIST_ORDERS = Operation(
    name="listOrders",
    summary="List orders",
    description="List orders, newest first, a page at a time.",
    tag="administration",
    caller="admin",
    limit="administration",
    parameters=(
        Parameter(
            name="productId",
            place="query",
            schema={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
            description="Orders of this product only.",
            example=7,
        ),
        Parameter(
            name="status",
            place="query",
            schema={"type": "string", "enum": [status.value for status in OrderStatus]},
            description="Orders in this state only.",
            example="confirmed",
        ),
        Parameter(
            name="before",
            place="query",
            schema={"type": "string", "format": "uuid"},
            description="The last order id of the page before.",
            example=ORDER_ID,
        ),
        Parameter(
            name="limit",
            place="query",
            schema={"type": "integer", "minimum": 1, "maximum": 500, "default": 100},
            description="Most orders of a page.",
            example=100,
        ),
    ),
    gives=(Given(status=HTTPStatus.OK, description="A page of orders.", model=list[OrderOut]),),
    codes=SERVERS,
)


@post("/stock", status_code=200, opt={"operation": SET_STOCK})
async def set_stock(data: JSONBody[StockIn], services: UseServices) -> AdminProductOut:
    """Set how many units exist, never below what orders hold; repeating it changes nothing."""
    product = await services.administer.set_allotment(data.product_id, data.stock)
    return admin_product_out(product, services.catalog.stock(product.product_id))


@post("/products", status_code=201, opt={"operation": CREATE})
async def create_product(data: JSONBody[NewProductIn], services: UseServices) -> AdminProductOut:
    """Create a product with its units; `stock` is the allotment."""
    product = await services.administer.create(
        NewProduct(
            name=data.name,
            price=parse_money(data.price, data.currency),
            allotment=data.stock,
            payment_mode=PaymentMode(data.payment_mode),
            payment_window_s=data.payment_window_s,
            limit_per_buyer=data.limit_per_buyer,
            limit_per=data.limit_per,
            starts_at=data.starts_at,
            ends_at=data.ends_at,
        )
    )
    return admin_product_out(product, services.catalog.stock(product.product_id))


@get("/products/{product_id:int}", opt={"operation": LOOK})
async def admin_product(product_id: FromPath[int], services: UseServices) -> AdminProductOut:
    """Give a product with everything that can be set."""
    product = await services.catalog.get(product_id)
    return admin_product_out(product, services.catalog.stock(product_id))


@patch("/products/{product_id:int}", opt={"operation": CHANGE})
async def change_product(
    product_id: FromPath[int], data: JSONBody[ProductChangeIn], services: UseServices
) -> AdminProductOut:
    """Change what is sent; a field left out stays."""
    fields = {name: value for name in data.__struct_fields__ if (value := getattr(data, name)) is not msgspec.UNSET}
    return await _change(product_id, fields, services)


@post("/products/{product_id:int}/pause", status_code=200, opt={"operation": PAUSE})
async def pause(product_id: FromPath[int], services: UseServices) -> AdminProductOut:
    """Accept nothing more until the sale is resumed."""
    return await _change(product_id, {"paused": True}, services)


@post("/products/{product_id:int}/resume", status_code=200, opt={"operation": RESUME})
async def resume(product_id: FromPath[int], services: UseServices) -> AdminProductOut:
    """Go on selling."""
    return await _change(product_id, {"paused": False}, services)


@get("/orders", opt={"operation": LIST_ORDERS})
async def list_orders(
    services: UseServices,
    product_id: Annotated[int | None, QueryParameter(name="productId", ge=1, le=2**31 - 1)] = None,
    status: FromQuery[OrderStatus | None] = None,
    before: FromQuery[UUID | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> list[OrderOut]:
    """List orders, newest first; `before` is the last order id of the page before."""
    orders = await services.administer.list_orders(product_id=product_id, status=status, before=before, limit=limit)
    return [order_out(order) for order in orders]


async def _change(product_id: int, fields: dict[str, object], services: UseServices) -> AdminProductOut:
    product = await services.administer.change(product_id, ProductChange(fields=fields))
    return admin_product_out(product, services.catalog.stock(product.product_id))


_STRICT: dict[tuple[str, str], msgspec.json.Decoder[Any]] = {
    ("POST", "/api/admin/stock"): msgspec.json.Decoder(StockIn),
    ("POST", "/api/admin/products"): msgspec.json.Decoder(NewProductIn),
    ("PATCH", "/api/admin/products/{product_id}"): msgspec.json.Decoder(ProductChangeIn),
}


async def check_strictly(request: Request[Any, Any, Any]) -> Response[bytes] | None:
    """Refuse a body that is JSON of other types than the call takes; the framework would convert `"null"` to null."""
    decoder, body = _STRICT.get((request.method, request.scope["path_template"])), await request.body()
    if decoder is None or not body:
        return None
    headers = list(request.scope["headers"])
    received = Received(method=request.method, path="", query=b"", headers=headers, body=body)
    try:
        body_of(received, decoder, what="this call")
    except InvalidInput as error:
        errors = [{"field": error.field, "problem": error.detail.removeprefix(error.field).strip()}]
        return problems.as_response(
            problems.problem(HTTPStatus.BAD_REQUEST, "invalid_request", error.detail, [], errors=errors)
        )
    return None


routes = Router(
    "/api/admin",
    route_handlers=[
        set_stock,
        create_product,
        admin_product,
        change_product,
        pause,
        resume,
        list_orders,
    ],
    # Counted first: whether somebody is an administrator may have to be looked up.
    guards=[limited("administration"), admin_only],
    before_request=check_strictly,
)
