"""The use cases of administrators: create, change, close and archive products, set allotments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import (
    AllotmentTooSmall,
    InvalidInput,
    ProductNotFound,
    ProductOpen,
    SaleNotStarted,
    Unavailable,
)
from flashsale.domain.instants import check_instant
from flashsale.domain.money import parse_money
from flashsale.domain.products import ALLOTMENT_MAX, PRODUCT_ID_MAX, LiveStock, NewProduct, PaymentMode, ProductChange

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from flashsale.domain.products import Product
    from flashsale.domain.requests import AdminRequest
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.load_gate import LoadGate
    from flashsale.usecases.ports import AdminAnswers, Products

log = structlog.get_logger(__name__)

STILL_OPEN = {
    "on_sale": "The sale is open: close or pause it first.",
    "orders": "An order of the product is not final: wait for its end, or cancel it.",
    "refunds": "A refund of the product is pending: wait for its end.",
}
"""Why a product cannot be archived, by what Postgres says."""


class Administer:
    """The use cases. The caller checks the permission."""

    def __init__(
        self,
        products: Products,
        catalog: Catalog,
        load_gate: LoadGate,
        answers: AdminAnswers,
        *,
        chunk: int,
        by_buyer_only: bool = False,
    ) -> None:
        """Keep the parts; `chunk`: number of unit rows to make or delete before the answer.

        `by_buyer_only`: the payment provider can charge nobody by itself.
        """
        self._products = products
        self._catalog = catalog
        self._load_gate = load_gate
        self.answers = answers
        self._chunk = chunk
        self._by_buyer_only = by_buyer_only

    async def create(self, product: NewProduct, request: AdminRequest | None = None) -> Product:
        """Create a product, load its gate and make the first rows of its units; the others follow during the sale.

        Raises:
            InvalidInput: if a field does not hold what it must.
            OutcomeUnknown: if nobody can tell whether it was created.
        """
        if "\x00" in product.name or not product.name.strip():
            raise InvalidInput(field="name", problem="must have visible characters")
        if self._by_buyer_only and product.payment_mode is not PaymentMode.BY_BUYER:
            raise InvalidInput(
                field="paymentMode", problem="must be by_buyer: the provider manual cannot charge anybody by itself"
            )
        check_instant("startsAt", product.starts_at)
        check_instant("endsAt", product.ends_at)
        if product.starts_at is not None and product.ends_at is not None and product.ends_at <= product.starts_at:
            raise InvalidInput(field="endsAt", problem="must be after startsAt")
        created = await self._products.create(product, request)
        try:
            return await self._allotted(created.product_id)
        except Unavailable as error:
            # The product exists, and after a 503 it would be created twice. Claims and maintenance do the rest.
            log.info("product.not_ready", product_id=created.product_id, reason=error.detail)
            self._load_gate.soon(created.product_id)
            self._catalog.take_stock(LiveStock(product_id=created.product_id, free=created.allotment, version=0))
            return created

    async def change(
        self,
        product_id: int,
        change: ProductChange,
        *,
        unless_changed_since: Collection[datetime] | None = None,
        request: AdminRequest | None = None,
    ) -> Product:
        """Change a product. The change waits for running accepts, so it is valid for every accept after the answer.

        Raises:
            ProductNotFound: if there is no such product.
            InvalidInput: if a field is not valid.
            StaleChange: if its `updated_at` is none of `unless_changed_since`.
            ProductArchived: if it is archived (also below).
            SaleOpen: if the price would rise while buyers, who see the old one, can buy.
            KeyReused: if the key belongs to another request (also below).
        """
        name = change.fields.get("name")
        if isinstance(name, str) and ("\x00" in name or not name.strip()):
            raise InvalidInput(field="name", problem="must have visible characters")
        check_instant("startsAt", change.fields.get("starts_at"))
        check_instant("endsAt", change.fields.get("ends_at"))
        if not 1 <= product_id <= PRODUCT_ID_MAX:
            raise ProductNotFound(product_id)
        price = change.fields.get("price")
        if isinstance(price, str):
            # The currency never changes.
            minor = parse_money(price, (await self._catalog.get(product_id)).price.currency).minor
            rest = {name: value for name, value in change.fields.items() if name != "price"}
            change = ProductChange(fields={**rest, "price_minor": minor})
        if not await self._products.change(
            product_id, change, unless_changed_since=unless_changed_since, request=request
        ):
            raise ProductNotFound(product_id)
        return await self._fresh(product_id)

    async def close(self, product_id: int, request: AdminRequest | None = None) -> Product:
        """End a sale now: no order is accepted any more, and accepted orders stay payable.

        A sale that has ended stays as it is.

        Raises:
            ProductNotFound: if there is none.
            SaleNotStarted: if the sale has not started.
        """
        result = await self._products.close(product_id, request) if 1 <= product_id <= PRODUCT_ID_MAX else "unknown"
        if result == "unknown":
            raise ProductNotFound(product_id)
        product = await self._fresh(product_id)
        if result == "not_started":
            raise SaleNotStarted(product.starts_at)
        return product

    async def archive(self, product_id: int, request: AdminRequest | None = None) -> Product:
        """Archive a product: it leaves the lists, and never changes again. A repetition changes nothing.

        Raises:
            ProductNotFound: if there is none.
            ProductOpen: if its sale, an order or a refund is open.
        """
        result = await self._products.archive(product_id, request) if 1 <= product_id <= PRODUCT_ID_MAX else "unknown"
        if result == "unknown":
            raise ProductNotFound(product_id)
        if result in STILL_OPEN:
            raise ProductOpen(STILL_OPEN[result])
        return await self._fresh(product_id)

    async def set_allotment(self, product_id: int, allotment: int, request: AdminRequest | None = None) -> Product:
        """Set the allotment of a product and load its gate; the same number again changes nothing.

        The new allotment is valid at once. Unit rows are made and deleted later, and the sale does not wait for them.

        Raises:
            ProductNotFound: if there is none.
            AllotmentTooSmall: if orders hold more units.
        """
        if not 0 <= allotment <= ALLOTMENT_MAX:
            raise InvalidInput(field="stock", problem=f"must be 0 to {ALLOTMENT_MAX}")
        return await self._allotted(product_id, *await self._products.set_allotment(product_id, allotment, request))

    async def change_allotment(self, product_id: int, by: int, request: AdminRequest | None = None) -> Product:
        """Add units to a product, or take some away; without a key, a repetition does so again.

        Raises:
            ProductNotFound: if there is none.
            AllotmentTooSmall: if orders hold more units.
            InvalidInput: if the product would have more units than a product may have.
        """
        if not -ALLOTMENT_MAX <= by <= ALLOTMENT_MAX:
            raise InvalidInput(field="change", problem=f"must be {-ALLOTMENT_MAX} to {ALLOTMENT_MAX}")
        if not 1 <= product_id <= PRODUCT_ID_MAX:
            raise ProductNotFound(product_id)
        return await self._allotted(product_id, *await self._products.change_allotment(product_id, by, request))

    async def _allotted(self, product_id: int, result: str = "changed", claimed: int = 0) -> Product:
        if result == "unknown":
            raise ProductNotFound(product_id)
        if result == "too_small":
            raise AllotmentTooSmall(claimed)
        if result == "too_large":
            raise InvalidInput(field="change", problem=f"must leave at most {ALLOTMENT_MAX} units")
        try:
            await self._products.tend_units(product_id, most=self._chunk)
        except Unavailable as error:
            # The allotment is set in any case: a claim that finds no row makes some, and maintenance makes the others.
            log.info("units.not_tended", product_id=product_id, reason=error.detail)
        await self._load_gate(product_id)
        return await self._fresh(product_id)

    async def _fresh(self, product_id: int) -> Product:
        await self._catalog.refresh(product_id)
        return await self._catalog.get(product_id)
