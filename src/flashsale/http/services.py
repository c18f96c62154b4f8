"""What the routes need: the use cases, wired by the composition root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from flashsale.usecases.ports import Gate

if TYPE_CHECKING:
    from collections import Counter

    from flashsale.settings import Settings
    from flashsale.usecases.accounts import Accounts
    from flashsale.usecases.administer import Administer
    from flashsale.usecases.buy import Buy
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.load_gate import LoadGate
    from flashsale.usecases.orders import OrderDesk
    from flashsale.usecases.ports import LiveFeed, Orders, Products
    from flashsale.usecases.readiness import Readiness


class Database(Protocol):
    """What metrics ask of the database."""

    @property
    def size(self) -> tuple[int, int]:
        """Open and idle connections."""
        ...


class CountingGate(Gate, Protocol):
    """A gate that counts what it answers."""

    answers: Counter[str]

    @property
    def batches(self) -> tuple[int, int]:
        """Batches sent, and requests in them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServices:
    """Everything that an API process serves from."""

    settings: Settings
    database: Database
    gate: CountingGate
    catalog: Catalog
    feed: LiveFeed
    buy: Buy
    orders: OrderDesk
    order_rows: Orders
    products: Products
    accounts: Accounts
    administer: Administer
    load_gate: LoadGate
    readiness: Readiness


UseServices = NamedDependency[SkipValidation[ApiServices]]
"""How a route asks for them."""
