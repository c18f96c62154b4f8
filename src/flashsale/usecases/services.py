"""The use cases and ports of an API process; the composition root wires them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flashsale.usecases.ports import Gate

if TYPE_CHECKING:
    from collections import Counter

    from flashsale.settings import Settings
    from flashsale.usecases.accounts import Accounts
    from flashsale.usecases.administer import Administer
    from flashsale.usecases.audit_now import AuditNow
    from flashsale.usecases.books import ReadBooks
    from flashsale.usecases.buy import Buy
    from flashsale.usecases.buyers import Buyers
    from flashsale.usecases.catalog import Catalog, CatalogFeed
    from flashsale.usecases.find_orders import FindOrders
    from flashsale.usecases.load_gate import LoadGate
    from flashsale.usecases.orders import BuyerOrders
    from flashsale.usecases.ports import GateBooks, Orders, Products, Users
    from flashsale.usecases.product_figures import ReadProducts
    from flashsale.usecases.readiness import Readiness
    from flashsale.usecases.record_money import RecordMoney
    from flashsale.usecases.refund import RequestRefund
    from flashsale.usecases.revocations import Revocations
    from flashsale.usecases.sessions import Sessions
    from flashsale.usecases.status import Status
    from flashsale.usecases.story import Stories
    from flashsale.usecases.tracing import OrderTraces
    from flashsale.usecases.trail import Trail
    from flashsale.usecases.webhooks import ReceiveWebhook


class Database(Protocol):
    """The part of the database that metrics read."""

    @property
    def size(self) -> tuple[int, int]:
        """Open and idle connections."""
        ...


class CountingGate(Gate, Protocol):
    """A gate that counts its answers."""

    answers: Counter[str]

    @property
    def batches(self) -> tuple[int, int]:
        """Batches sent, and requests in them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The use cases and ports of an API process."""

    settings: Settings
    database: Database
    gate: CountingGate
    catalog: Catalog
    feed: CatalogFeed
    buy: Buy
    orders: BuyerOrders
    order_rows: Orders
    products: Products
    books: GateBooks
    users: Users
    accounts: Accounts
    sessions: Sessions
    revocations: Revocations
    administer: Administer
    read_products: ReadProducts
    webhooks: ReceiveWebhook
    refunds: RequestRefund
    record_money: RecordMoney
    load_gate: LoadGate
    readiness: Readiness
    status: Status
    stories: Stories
    trail: Trail
    find_orders: FindOrders
    read_books: ReadBooks
    buyers: Buyers
    audit_now: AuditNow
    traces: OrderTraces | None = None
    """Traces of orders; None in a process that does not trace."""
