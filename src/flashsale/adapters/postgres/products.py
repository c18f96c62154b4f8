"""Products, their live stock and the gate's returns: `sql/queries/products.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from flashsale.adapters.postgres.administration import Change, change
from flashsale.adapters.postgres.failures import AWAY, OTHER_SCHEMA, READ_ONLY, SLOW
from flashsale.adapters.postgres.queries import load
from flashsale.domain.errors import (
    InvalidInput,
    OutcomeUnknown,
    ProductArchived,
    ProductNotFound,
    SaleOpen,
    StaleChange,
    Unavailable,
)
from flashsale.domain.money import Money
from flashsale.domain.products import (
    ALLOTMENT_MAX,
    LimitPer,
    LiveStock,
    NewProduct,
    PaymentMode,
    Product,
    ProductChange,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from flashsale.adapters.postgres.database import Database
    from flashsale.adapters.postgres.queries import Query
    from flashsale.domain.requests import AdminRequest

QUERIES = load("queries/products.sql")
REPLICATE = load("queries/replication.sql")["replicate"]


MADE = ("changed", "unchanged")
"""Results of a change of the allotment that was made."""


class _NotMade(Exception):
    """A change is refused, and the rollback removes its key."""

    def __init__(self, result: str, claimed: int = 0) -> None:
        self.result = result
        self.claimed = claimed


class PostgresProducts:
    """Implements `ports.Products`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def all(self, product_ids: Sequence[int] | None = None) -> Sequence[tuple[Product, datetime]]:
        """Read every product, or some, each with the time by Postgres' clock."""
        rows = await self._database.fetch(QUERIES["all_products"], product_ids)
        return [(_product(row), row["now"]) for row in rows]

    async def stocks(self, product_ids: Sequence[int] | None = None) -> Sequence[LiveStock]:
        """Read the free count and version of every product, or of some."""
        rows = await self._database.fetch(QUERIES["stocks"], product_ids)
        return [LiveStock(product_id=row["product_id"], free=row["free"], version=row["version"]) for row in rows]

    async def claimed(self, product_ids: Sequence[int]) -> Sequence[tuple[LiveStock, int]]:
        """Read the live stock of products, each with the units that orders hold."""
        rows = await self._database.fetch(QUERIES["claimed_units"], product_ids)
        return [
            (LiveStock(product_id=row["product_id"], free=row["free"], version=row["version"]), row["claimed"])
            for row in rows
        ]

    async def places(self, product_ids: Sequence[int]) -> Mapping[int, str]:
        """Read machine and folder of the files, of products whose orders left the database."""
        rows = await self._database.fetch(QUERIES["places"], product_ids)
        return {row["product_id"]: row["place"] for row in rows}

    async def create(self, product: NewProduct, request: AdminRequest | None = None) -> Product:
        """Create a product whose units have no rows yet; see the port."""
        created: Product | None = None
        try:
            async with self._database.connection() as connection, connection.transaction():
                changing = Change(connection, request)
                await changing.begin()
                product_id = changing.done
                if product_id is None:
                    product_id = await connection.fetchval(
                        QUERIES["create_product"].text,
                        product.name,
                        product.price.minor,
                        product.price.currency,
                        product.allotment,
                        product.payment_mode.value,
                        product.payment_window_s,
                        product.limit_per_buyer,
                        product.limit_per.value,
                        product.cooldown_s,
                        product.refundable_by_buyer,
                        product.starts_at,
                        product.ends_at,
                    )
                    await changing.concerns(product_id)
                # Held until the transaction ends: `_look_for` waits for this lock, and then sees whether it committed.
                await connection.execute(QUERIES["lock_product"].text, product_id)
                await connection.execute(REPLICATE.text)
                [row] = await connection.fetch(QUERIES["all_products"].text, [product_id])
                created = _product(row)
        except asyncpg.CheckViolationError as error:
            raise _refused(error) from error
        except (*AWAY, *OTHER_SCHEMA) as error:
            away = self._database.away("create_product", error)
            if created is None or isinstance(error, (*SLOW, *READ_ONLY)):
                raise away from error
            return await self._look_for(created.product_id)
        return created

    async def _look_for(self, product_id: int) -> Product:
        """Return a product if its COMMIT, which got no answer, happened."""
        try:
            async with self._database.connection() as connection, connection.transaction():
                await connection.execute(QUERIES["lock_product"].text, product_id)
                rows = await connection.fetch(QUERIES["all_products"].text, [product_id])
                # That COMMIT may be on the primary only.
                await connection.execute(REPLICATE.text)
        except (Unavailable, *AWAY) as error:
            raise OutcomeUnknown(
                f"Product {product_id} may have been created: look at the list of products before you send this again."
            ) from error
        if not rows:
            raise Unavailable("Nothing was created; send the same request again.")
        return _product(rows[0])

    async def change(
        self,
        product_id: int,
        wanted: ProductChange,
        *,
        unless_changed_since: Collection[datetime] | None = None,
        request: AdminRequest | None = None,
    ) -> bool:
        """Change a product under its exclusive lock; False if there is none.

        Raises:
            InvalidInput: if the sale would end before it starts, or continue in an unknown currency.
            StaleChange: if the product was changed after each of the instants.
            ProductArchived: if it is archived.
            SaleOpen: if the price of a product on sale would rise.
        """
        try:
            async with change(self._database, "change_product", request) as changing:
                if changing.done is not None:
                    return True
                connection = changing.connection
                await connection.execute(QUERIES["lock_product"].text, product_id)
                since = None if unless_changed_since is None else list(unless_changed_since)
                row = await connection.fetchrow(QUERIES["changeable_fields"].text, product_id, since)
                if row is None:
                    raise ProductNotFound(product_id)  # noqa: TRY301 - undoes the key
                stale, on_sale, *names = row.keys()
                if row[stale]:
                    raise StaleChange
                fields: dict[str, Any] = {**dict(row), **wanted.fields}
                if row[on_sale] and fields["price_minor"] > row["price_minor"]:
                    raise SaleOpen
                await connection.execute(
                    QUERIES["change_product"].text,
                    product_id,
                    *(fields[name] for name in names),
                )
                if fields["limit_per"] != row["limit_per"]:
                    await connection.execute(QUERIES["recount_limits"].text, product_id)
                await changing.concerns(product_id)
        except asyncpg.CheckViolationError as error:
            raise _refused(error) from error
        except ProductNotFound:
            return False
        return True

    async def set_allotment(
        self, product_id: int, allotment: int, request: AdminRequest | None = None
    ) -> tuple[str, int]:
        """Set the allotment. Returns `changed`, `unchanged`, `too_small` or `unknown`, and the claimed units."""
        return await self._allot(request, product_id, QUERIES["set_allotment"], allotment)

    async def change_allotment(self, product_id: int, by: int, request: AdminRequest | None = None) -> tuple[str, int]:
        """Add to the allotment; returns like `set_allotment`, or `too_large` above the maximum of a product."""
        return await self._allot(request, product_id, QUERIES["change_allotment"], by, ALLOTMENT_MAX)

    async def close(self, product_id: int, request: AdminRequest | None = None) -> str:
        """End a sale now. Returns `closed`, `ended`, `not_started` or `unknown`; see the port."""
        return await self._end(request, product_id, QUERIES["close_sale"], "closed", "ended")

    async def archive(self, product_id: int, request: AdminRequest | None = None) -> str:
        """Archive a product. Returns `archived`, `before`, or why not; see the port."""
        return await self._end(request, product_id, QUERIES["archive_product"], "archived", "before")

    async def _end(self, request: AdminRequest | None, product_id: int, query: Query, made: str, before: str) -> str:
        try:
            async with change(self._database, query.name, request) as changing:
                if changing.done is not None:
                    return before
                result = str(await changing.connection.fetchval(query.text, product_id))
                if result not in {made, before}:
                    raise _NotMade(result)  # noqa: TRY301 - undoes the key
                await changing.concerns(product_id)
                return result
        except _NotMade as refused:
            return refused.result
        except asyncpg.CheckViolationError as error:
            raise _refused(error) from error

    async def page(self, *, archived: bool, before: int | None, limit: int) -> Sequence[int]:
        """List products that are archived, or those that are not, the newest first."""
        rows = await self._database.fetch(QUERIES["product_page"], archived, before, limit)
        return [row["product_id"] for row in rows]

    async def _allot(
        self, request: AdminRequest | None, product_id: int, query: Query, *arguments: int
    ) -> tuple[str, int]:
        try:
            async with change(self._database, query.name, request) as changing:
                if changing.done is not None:
                    return "unchanged", 0
                row = await changing.connection.fetchrow(query.text, product_id, *arguments)
                if row is None:
                    raise AssertionError
                if row["result"] not in MADE:
                    raise _NotMade(row["result"], row["claimed"])  # noqa: TRY301 - undoes the key
                await changing.concerns(product_id)
                return row["result"], row["claimed"]
        except _NotMade as refused:
            return refused.result, refused.claimed
        except asyncpg.CheckViolationError as error:
            raise _refused(error) from error

    async def open_pools(self, *, ahead: int, limit: int) -> Sequence[int]:
        """List products whose unit rows must be inserted or deleted, the most urgent first."""
        rows = await self._database.fetch(QUERIES["open_pools"], ahead, limit)
        return [row["product_id"] for row in rows]

    async def tend_units(self, product_id: int, *, most: int) -> int:
        """Insert missing unit rows, or delete a surplus. Returns the number of inserted rows."""
        row = await self._database.fetch_row(QUERIES["tend_units"], product_id, most)
        return 0 if row is None else row[0]

    async def waiting_orders(self) -> dict[int, int]:
        """Count, per product, the orders that wait for a worker."""
        rows = await self._database.fetch(QUERIES["waiting_orders"])
        return {row["product_id"]: row["waiting"] for row in rows}


def _refused(error: asyncpg.CheckViolationError) -> InvalidInput | ProductArchived:
    if error.constraint_name == "products_archived":
        return ProductArchived()
    if error.constraint_name == "products_currency_known":
        return InvalidInput(field="currency", problem="of the product must be the ISO 4217 code of a currency")
    return InvalidInput(field="endsAt", problem="must be after startsAt")


def _product(row: asyncpg.Record) -> Product:
    return Product(
        product_id=row["product_id"],
        name=row["name"],
        price=Money(minor=row["price_minor"], currency=row["currency"]),
        allotment=row["allotment"],
        unmade=row["unmade"],
        payment_mode=PaymentMode(row["payment_mode"]),
        payment_window_s=row["payment_window_s"],
        limit_per_buyer=row["limit_per_buyer"],
        limit_per=LimitPer(row["limit_per"]),
        cooldown_s=row["cooldown_s"],
        refundable_by_buyer=row["refundable_by_buyer"],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        paused=row["paused"],
        epoch=row["epoch"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        archived_at=row["archived_at"],
        moved_to=row["moved_to"],
    )
