"""The gateway's ledger, compared with orders and their payment attempts (I7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flashsale.domain.orders import FINAL, OrderStatus
from flashsale.domain.payment_errors import NotSupported
from flashsale.usecases.findings import Checked, found, skipped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.domain.payments import LedgerEntry
    from flashsale.usecases.history import OrderRow
    from flashsale.usecases.payment_ports import PaymentGateway

PROMISE = "Captured less refunded money is the price less refunds of a paid order and 0 of any other, captured once."

STATUSES = frozenset({"pending", "captured", "declined", "cancelled"})
"""The states of a key in the ledger."""

MAY_BE_CHARGED = frozenset({OrderStatus.PROCESSING_PAYMENT, OrderStatus.PAYMENT_UNKNOWN})
"""States in which the gateway may hold the money, or not."""

REFUNDABLE = frozenset({OrderStatus.CONFIRMED, OrderStatus.REFUND_PENDING, OrderStatus.REFUNDED})
"""States in which the gateway holds the price less refunds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What Postgres knows of the gateway's keys."""

    references: Mapping[str, str | None]
    """Of captured attempts, by key."""
    failed: Mapping[str, str]
    """Outcomes of the newest attempts of orders whose payment failed, by key."""


class Books(Protocol):
    """What this check reads from Postgres."""

    async def orders(self) -> Sequence[OrderRow]:
        """Read every order."""
        ...

    async def payment_ends(self) -> Ends:
        """Read the outcomes of attempts."""
        ...


async def check_ledger(truth: Books, orders: Sequence[OrderRow], gateway: PaymentGateway | None) -> Checked:
    """Read the whole ledger and compare it with Postgres; without a gateway the check is skipped."""
    if gateway is None:
        return skipped("I7", PROMISE, "no gateway is named")
    try:
        entries = [entry async for entry in gateway.ledger()]
    except NotSupported as error:
        return skipped("I7", PROMISE, error.detail)
    bad = _unexplained(entries, orders, await truth.payment_ends())
    if bad:
        # Orders change while the ledger is read: a mismatch must also exist in their newest states.
        bad &= _unexplained(entries, await truth.orders(), await truth.payment_ends())
    return found("I7", PROMISE, len(orders), sorted(bad, key=str))


def _unexplained(entries: Sequence[LedgerEntry], orders: Sequence[OrderRow], ends: Ends) -> set[str]:
    """Return the ids of orders, or else the keys, with entries that Postgres does not explain."""
    by_id = {order.order_id: order for order in orders}
    bad: set[str] = set()
    kept: dict[str, int] = {}
    seen: set[str] = set()
    for entry in entries:
        # The keys of an order begin with the order's id.
        order = by_id.get(entry.key.partition(":")[0])
        if order is None or entry.key in seen or not _is_sound(entry, order, ends):
            bad.add(entry.key)
        seen.add(entry.key)
        if order is not None:
            captured = entry.amount_minor if entry.status == "captured" else 0
            kept[order.order_id] = kept.get(order.order_id, 0) + captured - entry.refunded_minor
    bad.update(order.order_id for order in orders if not _is_paid_right(order, kept.get(order.order_id, 0)))
    return bad


def _is_sound(entry: LedgerEntry, order: OrderRow, ends: Ends) -> bool:
    # A key that was cancelled before any charge has no amount.
    charged = entry.status != "cancelled" or entry.amount_minor or entry.currency
    if charged and (entry.amount_minor, entry.currency) != (order.price_minor, order.currency):
        return False
    if entry.status not in STATUSES or entry.captures != (entry.status == "captured"):
        return False
    known = ends.references.get(entry.key)
    if known is not None and entry.status == "captured" and entry.reference not in {None, known}:
        return False
    return ends.failed.get(entry.key) in {None, entry.status}


def _is_paid_right(order: OrderRow, money_minor: int) -> bool:
    left = order.price_minor - order.refunded_minor
    if order.status in REFUNDABLE:
        return money_minor in {left, left - order.refunding_minor}
    if order.status in FINAL:
        return money_minor == 0
    return money_minor == 0 or (order.status in MAY_BE_CHARGED and money_minor == order.price_minor)
