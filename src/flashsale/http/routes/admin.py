"""Routes of administrators: changes of products; and the router of all their routes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response, Router, patch, post
from litestar.params import FromPath, JSONBody

from flashsale.domain.errors import InvalidInput
from flashsale.domain.products import PAUSED, RESUMED, ProductChange
from flashsale.http import problems
from flashsale.http.admin_schemas import (
    AdminProductOut,
    ManualPaymentIn,
    ManualRefundIn,
    NewProductIn,
    ProductChangeIn,
    RefundIn,
    StockChangeIn,
    StockIn,
    new_product,
    product_change,
)
from flashsale.http.auth import UseTokens, permitted
from flashsale.http.bodies import body_of
from flashsale.http.limits import limited
from flashsale.http.messages import Request as Received
from flashsale.http.operations import SERVERS, Given, Operation
from flashsale.http.routes.books import books
from flashsale.http.routes.changes import IF_MATCH, KEY, answered, terms_seen
from flashsale.http.routes.found_orders import export_orders, list_orders
from flashsale.http.routes.manual import record_payment, record_refund
from flashsale.http.routes.product_figures import admin_product, list_products
from flashsale.http.routes.refunds import list_refunds, refund_order, withdraw_refund
from flashsale.http.routes.support import cancel_order, erase_buyer, find_buyers
from flashsale.http.services import UseServices

Asked = Request[Any, Any, Any]

_OF_PRODUCT = {"product_id": "$response.body#/id"}
_CHANGED = Given(
    status=HTTPStatus.OK, description="The product as it is now.", model=AdminProductOut, headers=("ETag",)
)
SET_STOCK = Operation(
    name="setStock",
    summary="Set a product's allotment",
    description="Set the allotment, never below the units that orders hold; a repetition changes nothing.",
    tag="administration",
    caller="admin",
    limit="administration",
    takes=StockIn,
    parameters=(KEY,),
    gives=(_CHANGED,),
    codes=("product_not_found", "product_archived", "allotment_below_claimed", "idempotency_key_reused", *SERVERS),
)
CHANGE_STOCK = Operation(
    name="changeStock",
    summary="Add units to a product, or take some away",
    description="Add a number to the allotment, never below the units that orders hold: two administrators who add 50 "
    "each add 100. Without an idempotency key, a repetition adds the number again.",
    tag="administration",
    caller="admin",
    limit="administration",
    takes=StockChangeIn,
    parameters=(KEY,),
    gives=(_CHANGED,),
    codes=("product_not_found", "product_archived", "allotment_below_claimed", "idempotency_key_reused", *SERVERS),
)
CREATE = Operation(
    name="createProduct",
    summary="Create a product",
    description="Create a product with its units; `stock` is the allotment.",
    tag="administration",
    caller="admin",
    limit="administration",
    takes=NewProductIn,
    parameters=(KEY,),
    gives=(
        Given(
            status=HTTPStatus.CREATED,
            description="The new product.",
            model=AdminProductOut,
            headers=("ETag", "Location"),
            links={
                **dict.fromkeys(("getProduct", "getAdminProduct", "changeProduct"), _OF_PRODUCT),
                **dict.fromkeys(("pauseSale", "resumeSale", "closeSale", "archiveProduct", "watchStock"), _OF_PRODUCT),
                "changeStock": {**_OF_PRODUCT, "body": {"change": 10}},
                "setStock": {"body": {"productId": "$response.body#/id", "stock": 10}},
                "buy": {"body": {"productId": "$response.body#/id"}},
                "listOrders": {"productId": "$response.body#/id"},
            },
        ),
    ),
    codes=("idempotency_key_reused", "outcome_unknown", *SERVERS),
)
CHANGE = Operation(
    name="changeProduct",
    summary="Change a product",
    description="Change the fields that are sent, and no other field. While the product is on sale, its price can only "
    "be lowered: pause the sale before you raise it.",
    tag="administration",
    caller="admin",
    limit="administration",
    takes=ProductChangeIn,
    parameters=(KEY, IF_MATCH),
    gives=(_CHANGED,),
    codes=("product_not_found", "product_archived", "sale_open", "stale", "idempotency_key_reused", *SERVERS),
)
PAUSE = Operation(
    name="pauseSale",
    summary="Pause a sale",
    description="Refuse every order until the sale is resumed.",
    tag="administration",
    caller="operator",
    limit="administration",
    parameters=(KEY, IF_MATCH),
    gives=(_CHANGED,),
    codes=("product_not_found", "product_archived", "stale", "idempotency_key_reused", *SERVERS),
)
RESUME = Operation(
    name="resumeSale",
    summary="Resume a sale",
    description="Accept orders again.",
    tag="administration",
    caller="operator",
    limit="administration",
    parameters=(KEY, IF_MATCH),
    gives=(_CHANGED,),
    codes=("product_not_found", "product_archived", "stale", "idempotency_key_reused", *SERVERS),
)

CLOSE = Operation(
    name="closeSale",
    summary="Close a sale",
    description="End the sale now: no order is accepted any more, and the orders that were accepted stay payable. A "
    "sale that has ended stays as it is.",
    tag="administration",
    caller="admin",
    limit="administration",
    parameters=(KEY,),
    gives=(_CHANGED,),
    codes=("product_not_found", "sale_not_started", "product_archived", "idempotency_key_reused", *SERVERS),
)
ARCHIVE = Operation(
    name="archiveProduct",
    summary="Archive a product",
    description="Take a product out of the lists for ever, if nothing of it is open: the sale, an order that is not "
    "final, a pending refund. It is paused and never changes again; its orders stay, and can be refunded.",
    tag="administration",
    caller="admin",
    limit="administration",
    parameters=(KEY,),
    gives=(_CHANGED,),
    codes=("product_not_found", "product_open", "idempotency_key_reused", *SERVERS),
)


@post("/stock", status_code=200, opt={"operation": SET_STOCK})
async def set_stock(
    request: Asked, data: JSONBody[StockIn], services: UseServices, tokens: UseTokens
) -> Response[bytes]:
    """Set the allotment, never below the units that orders hold; a repetition changes nothing."""
    administer = services.administer
    return await answered(
        request, data, services, tokens, lambda key: administer.set_allotment(data.product_id, data.stock, key)
    )


@post("/products/{product_id:int}/stock", status_code=200, opt={"operation": CHANGE_STOCK})
async def change_stock(
    request: Asked, product_id: FromPath[int], data: JSONBody[StockChangeIn], services: UseServices, tokens: UseTokens
) -> Response[bytes]:
    """Add units, or take some away; concurrent changes add up."""
    administer = services.administer
    return await answered(
        request, data, services, tokens, lambda key: administer.change_allotment(product_id, data.change, key)
    )


@post("/products", status_code=201, opt={"operation": CREATE})
async def create_product(
    request: Asked, data: JSONBody[NewProductIn], services: UseServices, tokens: UseTokens
) -> Response[bytes]:
    """Create a product with its units; `stock` is the allotment."""
    product = new_product(data)
    administer = services.administer
    return await answered(
        request, data, services, tokens, lambda key: administer.create(product, key), status=HTTPStatus.CREATED
    )


@patch("/products/{product_id:int}", opt={"operation": CHANGE})
async def change_product(
    request: Asked, product_id: FromPath[int], data: JSONBody[ProductChangeIn], services: UseServices, tokens: UseTokens
) -> Response[bytes]:
    """Change the fields that are sent, and no other field."""
    return await _change(request, product_id, product_change(data), services, tokens, data)


@post("/products/{product_id:int}/pause", status_code=200, opt={"operation": PAUSE})
async def pause(request: Asked, product_id: FromPath[int], services: UseServices, tokens: UseTokens) -> Response[bytes]:
    """Refuse every order until the sale is resumed."""
    return await _change(request, product_id, PAUSED, services, tokens)


@post("/products/{product_id:int}/resume", status_code=200, opt={"operation": RESUME})
async def resume(
    request: Asked, product_id: FromPath[int], services: UseServices, tokens: UseTokens
) -> Response[bytes]:
    """Accept orders again."""
    return await _change(request, product_id, RESUMED, services, tokens)


@post("/products/{product_id:int}/close", status_code=200, opt={"operation": CLOSE})
async def close_sale(
    request: Asked, product_id: FromPath[int], services: UseServices, tokens: UseTokens
) -> Response[bytes]:
    """End a sale now."""
    close = services.administer.close
    return await answered(request, None, services, tokens, lambda key: close(product_id, key))


@post("/products/{product_id:int}/archive", status_code=200, opt={"operation": ARCHIVE})
async def archive_product(
    request: Asked, product_id: FromPath[int], services: UseServices, tokens: UseTokens
) -> Response[bytes]:
    """Take a product out of the lists."""
    archive = services.administer.archive
    return await answered(request, None, services, tokens, lambda key: archive(product_id, key))


async def _change(
    request: Asked,
    product_id: int,
    change: ProductChange,
    services: UseServices,
    tokens: UseTokens,
    data: object = None,
) -> Response[bytes]:
    since = terms_seen(request)
    return await answered(
        request,
        data,
        services,
        tokens,
        lambda key: services.administer.change(product_id, change, unless_changed_since=since, request=key),
    )


_STRICT: dict[tuple[str, str], msgspec.json.Decoder[Any]] = {
    ("POST", "/api/admin/stock"): msgspec.json.Decoder(StockIn),
    ("POST", "/api/admin/products/{product_id}/stock"): msgspec.json.Decoder(StockChangeIn),
    ("POST", "/api/admin/orders/{order_id}/refunds"): msgspec.json.Decoder(RefundIn),
    ("POST", "/api/admin/orders/{order_id}/paid"): msgspec.json.Decoder(ManualPaymentIn),
    ("POST", "/api/admin/orders/{order_id}/refunds/{number}/paid"): msgspec.json.Decoder(ManualRefundIn),
    ("POST", "/api/admin/products"): msgspec.json.Decoder(NewProductIn),
    ("PATCH", "/api/admin/products/{product_id}"): msgspec.json.Decoder(ProductChangeIn),
}


async def check_strictly(request: Request[Any, Any, Any]) -> Response[bytes] | None:
    """Refuse JSON values of a wrong type, which the framework would convert, for example `"null"` to null."""
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
        change_stock,
        create_product,
        list_products,
        admin_product,
        change_product,
        pause,
        resume,
        close_sale,
        archive_product,
        list_orders,
        export_orders,
        cancel_order,
        find_buyers,
        erase_buyer,
        books,
        refund_order,
        list_refunds,
        withdraw_refund,
        record_payment,
        record_refund,
    ],
    # Count first, because the check for an administrator may need a look-up.
    guards=[limited("administration"), permitted],
    before_request=check_strictly,
)
