"""Products, for every client: rendered when they change, so that a look costs next to nothing."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from flashsale.domain.errors import InvalidInput
from flashsale.domain.products import PRODUCT_ID_MAX
from flashsale.http.conditions import tag_of
from flashsale.http.messages import rendered
from flashsale.http.operations import SERVERS, Given, Operation, Parameter
from flashsale.http.routing import Direct
from flashsale.http.schemas import ProductOut, ProductWithStock, product_fields

if TYPE_CHECKING:
    from datetime import datetime

    from flashsale.domain.products import LiveStock, Product
    from flashsale.http.messages import Answer, Request
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.services import Services

PAGE_MAX = 100
"""Most products in one answer, and in a page of the storefront's list."""

LIST_PATH, LOOK_TEMPLATE = "/api/products", "/api/products/{product_id:int}"
_PRODUCT_ID_AT = LOOK_TEMPLATE.split("/").index("{product_id:int}")

LIST = Operation(
    name="listProducts",
    summary="List products",
    description="List the products that are not archived, the newest first, a page at a time, with their free units.",
    tag="products",
    parameters=(
        Parameter(
            name="before",
            place="query",
            schema={"type": "integer", "minimum": 1, "maximum": PRODUCT_ID_MAX},
            description="The last product id of the previous page.",
            example=7,
        ),
        Parameter(
            name="limit",
            place="query",
            schema={"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_MAX},
            description="Maximum number of products in a page.",
            example=PAGE_MAX,
        ),
    ),
    gives=(Given(status=HTTPStatus.OK, description="A page of products.", model=list[ProductOut]),),
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

_encode = msgspec.json.Encoder().encode


class _Rendered(NamedTuple):
    """A product as it was rendered last."""

    product: Product
    stock: LiveStock
    body: bytes
    """Without its last field, the time, and the brace after it."""
    tag: bytes


class Rendering:
    """The products of a catalog, each rendered again only if it or its stock has changed."""

    def __init__(self, catalog: Catalog) -> None:
        """Start empty."""
        self._catalog = catalog
        self._kept: dict[int, _Rendered] = {}

    def of(self, product: Product) -> _Rendered:
        """Return the newest rendering of a product of the catalog."""
        stock, kept = self._catalog.stock(product.product_id), self._kept.get(product.product_id)
        if kept is None or kept.stock is not stock or kept.product != product:
            terms = ProductWithStock(**product_fields(product, stock))  # type: ignore[arg-type]
            body = _encode(terms)[:-1]
            kept = self._kept[product.product_id] = _Rendered(product, stock, body, tag_of(body))
        return kept


def direct_routes(services: Services) -> list[Direct]:
    """Make the routes that every page of a shop polls."""
    catalog = services.catalog
    rendering = Rendering(catalog)

    async def look(request: Request) -> Answer:
        product = await catalog.get(int(request.path.split("/")[_PRODUCT_ID_AT]))
        shown = rendering.of(product)
        request.tag = b"W/" + shown.tag
        return rendered(HTTPStatus.OK, shown.body + _time(catalog.now))

    async def list_all(request: Request) -> Answer:
        before, limit = _page(request.query) if request.query else (None, PAGE_MAX)
        shown = [rendering.of(product) for product in catalog.listed(before=before, limit=limit)]
        request.tag = b"W/" + tag_of(b"".join([one.tag for one in shown]))
        time = _time(catalog.now) if shown else b""
        return rendered(HTTPStatus.OK, b"[%b]" % b",".join([one.body + time for one in shown]))

    return [
        Direct(template=LIST_PATH, method="GET", serve=list_all, operation=LIST),
        Direct(template=LOOK_TEMPLATE, method="GET", serve=look, operation=LOOK),
    ]


def _page(query: bytes) -> tuple[int | None, int]:
    """Return where a page begins, and its length. The edge has checked that both are numbers.

    Raises:
        InvalidInput: if one is out of its range.
    """
    sent = {name: int(value) for name, value in parse_qsl(query.decode("ascii"))}
    for name, most in (("before", PRODUCT_ID_MAX), ("limit", PAGE_MAX)):
        if not 1 <= sent.get(name, 1) <= most:
            raise InvalidInput(field=name, problem=f"must be 1 to {most}")
    return sent.get("before"), sent.get("limit", PAGE_MAX)


def _time(now: datetime) -> bytes:
    """Return the last field of a product and the brace after it."""
    return b',"now":"%bZ"}' % now.isoformat(timespec="milliseconds").removesuffix("+00:00").encode("ascii")
