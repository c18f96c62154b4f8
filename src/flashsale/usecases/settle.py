"""Settlement: compares our orders with the provider's list of payments, and names the cause of each difference."""

from __future__ import annotations

import contextlib
import enum
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import UUID

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payment_errors import NotSupported
from flashsale.domain.payments import IntentState
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from datetime import datetime

    from flashsale.usecases.payment_ports import PaymentGateway

log = structlog.get_logger(__name__)

PAGE = 1000
"""Orders that are read at a time."""

PAID = frozenset({OrderStatus.CONFIRMED, OrderStatus.REFUND_PENDING, OrderStatus.REFUNDED})
MAY_BE_CHARGED = frozenset({OrderStatus.AWAITING_PAYMENT, OrderStatus.PROCESSING_PAYMENT, OrderStatus.PAYMENT_UNKNOWN})


class Cause(enum.StrEnum):
    """Why an order and the provider's list differ."""

    # The provider took money for an order that does not exist here.
    UNKNOWN_ORDER = "unknown_order"
    # The order is paid here, and the provider took no money.
    NOT_CAPTURED = "not_captured"
    # The order ended without payment, and the provider holds money.
    CAPTURED_AFTER_END = "captured_after_end"
    # The order cannot have been paid yet, and the provider holds money.
    CAPTURED_TOO_EARLY = "captured_too_early"
    # The provider took another amount than the price.
    AMOUNT_DIFFERS = "amount_differs"
    # The provider took another currency.
    CURRENCY_DIFFERS = "currency_differs"
    # More is refunded here than at the provider.
    REFUND_MISSING_THERE = "refund_missing_there"
    # More is refunded at the provider than here.
    REFUND_MISSING_HERE = "refund_missing_here"


class SettledOrder(NamedTuple):
    """An order's amounts and state."""

    order_id: UUID
    status: OrderStatus
    price_minor: int
    currency: str
    refunded_minor: int
    refunding_minor: int
    """The amount of pending refunds."""
    moved_at: datetime


class Paid(NamedTuple):
    """What the provider captured and refunded for an order, over all of its payments."""

    captured_minor: int
    refunded_minor: int
    currency: str
    fee_minor: int | None = None
    """What the provider kept; None: it does not tell, of one of the payments at least."""
    fee_currency: str | None = None

    @property
    def held_minor(self) -> int:
        """What was captured and not given back."""
        return self.captured_minor - self.refunded_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference between an order and the provider's list."""

    order_id: str
    cause: Cause
    status: str
    """The order's state; empty if there is no such order."""
    currency: str
    expected: str
    """What the provider should hold, as a decimal number."""
    held: str
    """What the provider holds."""


class SettledOrders(Protocol):
    """What the settlement reads from Postgres."""

    async def page(self, after: UUID, limit: int) -> Sequence[SettledOrder]:
        """Read the orders after an id, by ascending id."""
        ...


class Fees(Protocol):
    """What providers kept, in Postgres."""

    async def keep(self, fees: Sequence[tuple[UUID, Money]]) -> None:
        """Write the fees of orders; a later reading replaces an earlier one."""
        ...


class Settle:
    """The use case. It reads the provider's list into a file, then the orders by id, so it needs constant memory."""

    def __init__(self, orders: SettledOrders, gateway: PaymentGateway, fees: Fees | None = None) -> None:
        """Keep the two sources; with `fees`, what the provider kept of the orders' payments is written."""
        self._orders = orders
        self._gateway = gateway
        self._fees = fees

    async def __call__(self, *, since: datetime, now: datetime) -> AsyncIterator[Difference]:
        """Compare the orders made since `since`. Orders that moved after `now`, during the read, wait for the next run.

        Raises:
            NotSupported: if the provider has no list.
            Unavailable: if the provider or Postgres is away.
        """
        first = UUID(int=max(int(since.timestamp() * 1000), 0) << 80)
        # An unnamed SQLite database is a temporary file, of which only a small part is in memory.
        with contextlib.closing(sqlite3.connect("", isolation_level=None)) as book:
            book.execute(
                "CREATE TABLE paid (order_id TEXT, currency TEXT, captured INTEGER, refunded INTEGER, "
                "fee INTEGER, fee_currency TEXT, PRIMARY KEY (order_id, currency)) WITHOUT ROWID"
            )
            await self._fill(book, since, first)
            theirs = _summed(book)
            paid = next(theirs, None)
            async for order in self._ours(first):
                while paid is not None and paid[0] < str(order.order_id):
                    if paid[1].held_minor:
                        yield _unknown(*paid)
                    paid = next(theirs, None)
                found: list[Paid] = []
                while paid is not None and paid[0] == str(order.order_id):
                    found.append(paid[1])
                    paid = next(theirs, None)
                if order.moved_at <= now:
                    # Money in another currency that was given back is no difference.
                    kept = [one for one in found if one.currency == order.currency or one.held_minor]
                    for one in kept or [Paid(0, 0, order.currency)]:
                        if (difference := compare(order, one)) is not None:
                            yield difference
            while paid is not None:
                if paid[1].held_minor:
                    yield _unknown(*paid)
                paid = next(theirs, None)
            await self._keep_fees(book)

    async def _ours(self, first: UUID) -> AsyncIterator[SettledOrder]:
        after = UUID(int=first.int - 1) if first.int else first
        while page := await self._orders.page(after, PAGE):
            for order in page:
                yield order
            after = page[-1].order_id

    async def _fill(self, book: sqlite3.Connection, since: datetime, first: UUID) -> None:
        statement = (
            "INSERT INTO paid VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET captured = captured + excluded.captured, refunded = refunded + excluded.refunded, "
            "fee = CASE WHEN fee_currency = excluded.fee_currency THEN fee + excluded.fee END"
        )
        book.execute("BEGIN")
        async for order_id, one in self._taken(since):
            # An order from before `since`, by the time in its id, belongs to an earlier settlement.
            if one.captured_minor and not (_is_id(order_id) and order_id < str(first)):
                amounts = one.captured_minor, one.refunded_minor, one.fee_minor, one.fee_currency
                book.execute(statement, (order_id, one.currency, *amounts))
        book.execute("COMMIT")

    async def _keep_fees(self, book: sqlite3.Connection) -> None:
        """Write the fees after the comparison, which stands whether they can be written or not."""
        if self._fees is None:
            return
        # An order that was paid in two currencies has no one fee.
        rows = book.execute(
            "SELECT order_id, max(fee), max(fee_currency) FROM paid "
            "GROUP BY order_id HAVING count(*) = 1 AND max(fee) >= 0 ORDER BY order_id"
        )
        try:
            while page := rows.fetchmany(PAGE):
                known = [(UUID(one), amount) for one, *amount in page if _is_id(one)]
                await self._fees.keep([(one, Money(minor=fee, currency=name)) for one, (fee, name) in known])
        except (FlashSaleError, PoisonBatch) as error:
            log.warning("settlement.fees_not_kept", error=type(error).__name__, problem=str(error))

    async def _taken(self, since: datetime) -> AsyncIterator[tuple[str, Paid]]:
        try:
            intents = self._gateway.intents(since=since)
        except NotSupported:
            async for entry in self._gateway.ledger():
                captured = entry.amount_minor * entry.captures
                yield entry.key.partition(":")[0], Paid(captured, entry.refunded_minor, entry.currency)
            return
        async for intent in intents:
            if intent.order_id is not None and intent.state is IntentState.CAPTURED:
                fee = (None, None) if intent.fee is None else (intent.fee.minor, intent.fee.currency)
                yield (
                    str(intent.order_id),
                    Paid(intent.amount.minor, intent.refunded_minor, intent.amount.currency, *fee),
                )


def _summed(book: sqlite3.Connection) -> Iterator[tuple[str, Paid]]:
    rows = book.execute("SELECT order_id, captured, refunded, currency FROM paid ORDER BY order_id, currency")
    return ((order_id, Paid(*rest)) for order_id, *rest in rows)


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _unknown(order_id: str, paid: Paid) -> Difference:
    return Difference(
        order_id=order_id,
        cause=Cause.UNKNOWN_ORDER,
        status="",
        currency=paid.currency,
        expected=str(Money(minor=0, currency=paid.currency)),
        held=str(Money(minor=paid.held_minor, currency=paid.currency)),
    )


def compare(order: SettledOrder, paid: Paid) -> Difference | None:
    """Compare an order with its payments at the provider; None if there is no difference."""
    is_due = order.status in PAID and paid.currency == order.currency
    expected = order.price_minor - order.refunded_minor if is_due else 0
    cause = _cause(order, paid, paid.held_minor)
    if cause is None:
        return None
    return Difference(
        order_id=str(order.order_id),
        cause=cause,
        status=order.status,
        currency=paid.currency,
        expected=str(Money(minor=expected, currency=paid.currency)),
        held=str(Money(minor=paid.held_minor, currency=paid.currency)),
    )


def _cause(order: SettledOrder, paid: Paid, held: int) -> Cause | None:  # noqa: PLR0911 - one line each
    if paid.captured_minor and paid.currency != order.currency:
        return Cause.CURRENCY_DIFFERS
    if order.status in MAY_BE_CHARGED:
        return Cause.AMOUNT_DIFFERS if held not in {0, order.price_minor} else None
    if order.status not in PAID:
        if not held:
            return None
        ended = order.status not in {OrderStatus.QUEUED, OrderStatus.PROCESSING}
        return Cause.CAPTURED_AFTER_END if ended else Cause.CAPTURED_TOO_EARLY
    if not paid.captured_minor:
        return Cause.NOT_CAPTURED
    left = order.price_minor - order.refunded_minor
    if paid.captured_minor > order.price_minor and held in {left, left - order.refunding_minor}:
        # Paid twice, and the second payment was given back.
        return None
    if paid.captured_minor != order.price_minor:
        return Cause.AMOUNT_DIFFERS
    if paid.refunded_minor in {order.refunded_minor, order.refunded_minor + order.refunding_minor}:
        return None
    less = paid.refunded_minor < order.refunded_minor
    return Cause.REFUND_MISSING_THERE if less else Cause.REFUND_MISSING_HERE
