"""Changes of products: made once under a key, and only if the product is as the administrator saw it."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Response

from flashsale.domain.requests import AdminRequest, KeptAnswer
from flashsale.http.admin_schemas import admin_product_out
from flashsale.http.conditions import tag_of, wanted_tags
from flashsale.http.fields import SENT_KEY_SCHEMA
from flashsale.http.keys import sent_key
from flashsale.http.messages import Request as Received
from flashsale.http.operations import Parameter
from flashsale.runtime.logs import REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar import Request

    from flashsale.domain.products import Product
    from flashsale.http.admin_schemas import AdminProductOut
    from flashsale.http.auth import Tokens
    from flashsale.usecases.services import Services

KEY = Parameter(
    name="Idempotency-Key",
    place="header",
    schema=SENT_KEY_SCHEMA,
    description="Names this request of the administrator. If a request that was carried out is sent again under its "
    "key within a day, it gets the same answer. Refusals are not stored.",
    example="restock-4711",
)
IF_MATCH = Parameter(
    name="If-Match",
    place="header",
    schema={"type": "string"},
    description="ETags of the product that the administrator saw. The answer is 412 if the product's terms have "
    "changed since; sold units do not change the terms.",
    example='"642a52c27fce8-97f1c04b2d6e8a35"',
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TAG = re.compile(rb'"([0-9a-f]{1,16})-[0-9a-f]{16}"')
_encode = msgspec.json.Encoder().encode


def rendered_product(product: Product, services: Services, status: HTTPStatus) -> KeptAnswer:
    """Render a product after a change."""
    return rendered_as(admin_product_out(product, services.catalog.stock(product.product_id)), product, status)


def rendered_as(shown: AdminProductOut, product: Product, status: HTTPStatus) -> KeptAnswer:
    """Render what is shown of a product. Its ETag begins with the instant of its terms, for If-Match."""
    body = _encode(shown)
    terms = b"%x-" % ((product.updated_at - _EPOCH) // _MICROSECOND)
    return KeptAnswer(status=status.value, tag=tag_of(body, terms=terms).decode("ascii"), body=body)


def terms_seen(request: Request[Any, Any, Any]) -> list[datetime] | None:
    """Return the instants of If-Match, one of which the product's terms must still have; None: any terms.

    Raises:
        InvalidInput: if the header is no list of tags.
    """
    wanted = wanted_tags([value for name, value in request.scope["headers"] if name == b"if-match"])
    if wanted is None:
        return None
    found = [_TAG.fullmatch(tag) for tag in wanted]
    # An instant beyond the years of datetime is no tag of ours.
    micros = [int(tag[1], 16) for tag in found if tag is not None]
    return [_EPOCH + one * _MICROSECOND for one in micros if one < 2**57]


def response_of(answer: KeptAnswer) -> Response[bytes]:
    """Convert an answer for Litestar."""
    headers = {"content-type": "application/json", "etag": answer.tag}
    if answer.status == HTTPStatus.CREATED:
        headers["location"] = f"/api/admin/products/{msgspec.json.decode(answer.body)['id']}"
    return Response(answer.body, status_code=answer.status, headers=headers)


async def answered(
    request: Request[Any, Any, Any],
    data: object,
    services: Services,
    tokens: Tokens,
    act: Callable[[AdminRequest], Awaitable[Product]],
    *,
    status: HTTPStatus = HTTPStatus.OK,
) -> Response[bytes]:
    """Change a product, or return the answer that the request got before under its key."""

    async def change(wanted: AdminRequest) -> KeptAnswer:
        return rendered_product(await act(wanted), services, status)

    return response_of(await answered_once(request, data, services, tokens, change))


async def answered_once(
    request: Request[Any, Any, Any],
    data: object,
    services: Services,
    tokens: Tokens,
    act: Callable[[AdminRequest], Awaitable[KeptAnswer]],
) -> KeptAnswer:
    """Carry a request out, or return the answer that it got before under its key.

    Raises:
        KeyReused: if the key belongs to a request of another path or with another body.
    """
    sent = [value for name, value in request.scope["headers"] if name == b"idempotency-key"]
    what = f"{request.method} {request.scope['path']}\n".encode() + _encode(data)
    wanted = AdminRequest(
        user_id=tokens.principal(request.scope).user_id,
        key=sent_key(sent) if sent else None,
        fingerprint=hashlib.blake2b(what, digest_size=16).digest(),
        action=request.route_handler.opt["operation"].name,
        origin=_origin(request),
        request_id=REQUEST_ID.get(b"").decode("ascii") or None,
    )
    answers = services.administer.answers
    # One of several concurrent requests under a key is carried out; all return the answer that is stored first.
    return await answers.kept(wanted) or await answers.keep(wanted, await act(wanted))


def _origin(request: Request[Any, Any, Any]) -> str:
    """Return the client's address."""
    received = Received(method=request.method, path="", query=b"", headers=list(request.scope["headers"]))
    client = request.scope["client"]
    received.peer = client[0] if client else ""
    return str(request.app.state.addresses.whole(received) or "unknown")
