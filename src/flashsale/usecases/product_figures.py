"""Products with what was sold of them, for administrators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flashsale.domain.errors import ProductNotFound
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import PRODUCT_ID_MAX
from flashsale.usecases.ports import Products
from flashsale.usecases.status import SOLD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.domain.products import LiveStock, Product
    from flashsale.usecases.figures import FiguresSource, Sales

PAGE_MAX = 500
"""Most products in a page."""

PAID = SOLD | {OrderStatus.REFUNDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductFigures:
    """A product, its units and its money."""

    product: Product
    stock: LiveStock
    claimed: int
    """Units that orders hold."""
    sold: int
    """Units of confirmed orders."""
    revenue: Money
    """Prices of all orders that were paid, also of those whose money was given back."""
    refunded: Money
    """What of it was given back."""
    files: str | None = None
    """Machine and folder of the files that have its orders, if these left the database."""


class PlacedProducts(Products, Protocol):
    """Products, and where the orders are that left the database."""

    async def places(self, product_ids: Sequence[int]) -> Mapping[int, str]:
        """Read machine and folder of the files, of products whose orders left the database."""
        ...


class ReadProducts:
    """The use case."""

    def __init__(self, products: PlacedProducts, figures: FiguresSource) -> None:
        """Read from these."""
        self._products = products
        self._figures = figures

    async def one(self, product_id: int) -> ProductFigures:
        """Read a product.

        Raises:
            ProductNotFound: if there is none.
            Unavailable: if Postgres is away (also below).
        """
        found = await self._read([product_id]) if 1 <= product_id <= PRODUCT_ID_MAX else []
        if not found:
            raise ProductNotFound(product_id)
        return found[0]

    async def page(self, *, archived: bool, before: int | None, limit: int) -> Sequence[ProductFigures]:
        """Read products that are archived, or those that are not, the newest first.

        `before`: the last product of the previous page.
        """
        return await self._read(await self._products.page(archived=archived, before=before, limit=limit))

    async def _read(self, product_ids: Sequence[int]) -> list[ProductFigures]:
        sales = await self._figures.sales_and_refunds(product_ids)
        # The units last: a product that is found has them.
        products = {product.product_id: product for product, _ in await self._products.all(product_ids)}
        units = {stock.product_id: (stock, claimed) for stock, claimed in await self._products.claimed(product_ids)}
        places = await self._products.places(product_ids)
        return [_figures(products[one], *units[one], sales, places.get(one)) for one in product_ids if one in products]


def _figures(
    product: Product, stock: LiveStock, claimed: int, sales: Sequence[Sales], files: str | None
) -> ProductFigures:
    paid = [one for one in sales if one.product_id == product.product_id and one.status in PAID]
    return ProductFigures(
        product=product,
        stock=stock,
        claimed=claimed,
        sold=sum(one.units for one in paid if one.status in SOLD),
        revenue=Money(minor=sum(one.value_minor for one in paid), currency=product.price.currency),
        refunded=Money(minor=sum(one.refunded_minor for one in paid), currency=product.price.currency),
        files=files,
    )
