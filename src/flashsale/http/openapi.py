"""The part of the OpenAPI document that Litestar cannot see: direct routes, what streams send, problem documents."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)

from flashsale.domain.requests import KEY_BYTES_MAX
from flashsale.http.routes.accounts import LOGIN_PATH, REGISTER_PATH
from flashsale.http.routes.orders import BUY_PATH, STATUS_TEMPLATE
from flashsale.http.schemas import (
    KEY_PATTERN,
    BuyIn,
    BuyOut,
    LoginIn,
    NewProductIn,
    OrderOut,
    ProductChangeIn,
    RegisteredOut,
    RegisterIn,
    StockIn,
    TokenOut,
)

if TYPE_CHECKING:
    from litestar.openapi.spec import OpenAPI

PROBLEM = "Problem"

PROBLEM_SCHEMA = Schema(
    title=PROBLEM,
    description="RFC 9457 problem document with a stable `code`.",
    type="object",  # type: ignore[arg-type]
    required=["type", "title", "status", "detail", "code"],
    properties={name: Schema(type="string") for name in ("type", "title", "detail", "code", "field")}  # type: ignore[arg-type]
    | {"status": Schema(type="integer")},  # type: ignore[arg-type]
)

UUID_SCHEMA = Schema(type="string", format="uuid")  # type: ignore[arg-type]

COMPONENTS = Components(
    security_schemes={"token": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")},
)

REFUSALS = {
    400: "The body, a parameter or the idempotency key is not what this call takes.",
    401: "No token, or one that does not hold.",
    403: "Administrators only.",
    404: "No such product or order, or it is somebody else's.",
    409: "Sold out, limit reached, not on sale, or the state forbids it; `code` says which.",
    413: "The body is too long.",
    422: "The idempotency key belongs to another request.",
    429: "Too many requests; Retry-After says when to come back.",
    503: "Busy, or a server is away; send the same request again after Retry-After.",
}


MODELS = (
    BuyIn,
    BuyOut,
    LoginIn,
    NewProductIn,
    OrderOut,
    ProductChangeIn,
    RegisteredOut,
    RegisterIn,
    StockIn,
    TokenOut,
)
"""What Litestar does not see, and bodies: its own schemas of them do not say that other fields are refused."""


def problem_responses(*statuses: int) -> dict[str, Any]:
    """Document problem answers."""
    reference = Reference(ref=f"#/components/schemas/{PROBLEM}")
    return {
        str(status): OpenAPIResponse(
            description=REFUSALS[status], content={"application/problem+json": OpenAPIMediaType(schema=reference)}
        )
        for status in statuses
    }


def complete(document: OpenAPI) -> None:
    """Add the direct routes, the streams and the problem answers to a document."""
    _, components = msgspec.json.schema_components(MODELS, ref_template="#/components/schemas/{name}")
    document.components.schemas = {**(document.components.schemas or {}), **components, PROBLEM: PROBLEM_SCHEMA}
    paths = document.paths = document.paths or {}
    for path, item in paths.items():
        for operation in (item.get, item.post, item.patch):
            if operation is not None:
                _document(path, operation)
    paths[REGISTER_PATH] = _account(
        "Register", "Create a buyer's account and log in.", RegisterIn, HTTPStatus.CREATED, RegisteredOut, 409
    )
    paths[LOGIN_PATH] = _account("Log in", "Get a token by email and password.", LoginIn, HTTPStatus.OK, TokenOut, 401)
    paths[BUY_PATH] = _buy()
    paths[STATUS_TEMPLATE.replace(":uuid", "")] = _status()
    paths["/sse/stock/{product_id}"] = _stream(
        "Watch a product's stock", "product_id", 'Each event is {"productId","stock","version"}; its id is the version.'
    )
    paths["/sse/orders/{order_id}"] = _stream(
        "Watch an order", "order_id", 'Each event is {"orderId","status","version"}; ends after the final status.'
    )


def _document(path: str, operation: Operation) -> None:
    statuses = [400, 503]
    if path.startswith(("/api/order", "/api/admin")):
        statuses += [401]
        operation.security = [{"token": []}]
    if path.startswith("/api/admin"):
        statuses += [403]
    if "{" in path or path == "/api/admin/stock":
        statuses += [404]
    if path.endswith(("/pay", "/cancel", "/stock")):
        statuses += [409]
    if operation.request_body is not None:
        statuses += [413]
    operation.responses = {**(operation.responses or {}), **problem_responses(*sorted(statuses))}


def _account(summary: str, description: str, wanted: type, status: HTTPStatus, given: type, refused: int) -> PathItem:
    return PathItem(
        post=Operation(
            operation_id="".join(word.capitalize() for word in summary.split()),
            summary=summary,
            description=description,
            tags=["accounts"],
            request_body=RequestBody(content=_json(wanted), required=True),
            responses={
                str(status.value): OpenAPIResponse(description=status.phrase, content=_json(given)),
                **problem_responses(400, refused, 413, 503),
            },
        )
    )


def _buy() -> PathItem:
    return PathItem(
        post=Operation(
            operation_id="BuyFlash",
            summary="Buy",
            description="Claim units. Repeat a request with its idempotency key until the answer is no 429 and no 503.",
            tags=["orders"],
            security=[{"token": []}],
            parameters=[
                Parameter(
                    name="Idempotency-Key",
                    param_in="header",
                    required=False,
                    description="Printable ASCII, scoped to the user; an accepted request repeated gets the same 202.",
                    schema=Schema(type="string", min_length=1, max_length=KEY_BYTES_MAX, pattern=KEY_PATTERN),  # type: ignore[arg-type]
                )
            ],
            request_body=RequestBody(content=_json(BuyIn), required=True),
            responses={
                "202": OpenAPIResponse(description="Accepted: the order is durable.", content=_json(BuyOut)),
                **problem_responses(400, 401, 404, 409, 413, 422, 429, 503),
            },
        )
    )


def _status() -> PathItem:
    return PathItem(
        get=Operation(
            operation_id="OrderStatus",
            summary="Look at an order",
            description="Give an order to its owner; 404 to everybody else.",
            tags=["orders"],
            security=[{"token": []}],
            parameters=[Parameter(name="order_id", param_in="path", required=True, schema=UUID_SCHEMA)],
            responses={
                "200": OpenAPIResponse(description="The order.", content=_json(OrderOut)),
                **problem_responses(401, 404, 503),
            },
        )
    )


def _json(model: type) -> dict[str, OpenAPIMediaType]:
    return {"application/json": OpenAPIMediaType(schema=Reference(ref=f"#/components/schemas/{model.__name__}"))}


def _stream(summary: str, parameter: str, description: str) -> PathItem:
    public = parameter == "product_id"
    kind = Schema(type="integer") if public else UUID_SCHEMA  # type: ignore[arg-type]
    token = Parameter(
        name="token",
        param_in="query",
        required=False,
        description="A stream token, instead of the Authorization header.",
        schema=Schema(type="string"),  # type: ignore[arg-type]
    )
    return PathItem(
        get=Operation(
            operation_id="".join(word.capitalize() for word in summary.replace("'", "").split()),
            summary=summary,
            description=description,
            tags=["live"],
            security=[] if public else [{"token": []}],
            parameters=[
                Parameter(name=parameter, param_in="path", required=True, schema=kind),
                *([] if public else [token]),
            ],
            responses={
                "200": OpenAPIResponse(description="A stream.", content={"text/event-stream": OpenAPIMediaType()}),
                **({} if public else {"204": OpenAPIResponse(description="Nothing more will happen to this order.")}),
                **problem_responses(*((404, 503) if public else (401, 404, 503))),
            },
        )
    )
