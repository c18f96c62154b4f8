"""The audit: recompute every invariant from Postgres, the gate, the gateway's books and what clients saw."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Protocol

from flashsale.domain.orders import FINAL, RELEASING, OrderStatus
from flashsale.usecases.history import Checked, History, OrderRow, check_history

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.usecases.ports import Acceptance, Gate, PaymentGateway, Products

GATE_PAUSE_S = 0.5
"""Between two looks at a gate that has to follow Postgres within the reconcile lag."""

GATE_LAG_S = 6.0
"""How long, after the deadline of the last lease, the reconciliation may take to notice, and to load the gate anew."""

MAY_BE_CHARGED = frozenset({OrderStatus.PROCESSING_PAYMENT, OrderStatus.PAYMENT_UNKNOWN, OrderStatus.REFUND_PENDING})
"""States in which the gateway may hold the money, or not."""

NEED_HISTORY = {
    "I4": "Every 202 that a client saw is that client's order, and final or on its way.",
    "I6": "Versions seen by one reader never go back.",
    "I9": "A repeated key gets the same 202.",
    "I14": "At the end every stream shows the database's value.",
    "I20": "Sold out was said only when no unit was free.",
}


class Truth(Protocol):
    """What the audit reads of Postgres."""

    async def check(self, *, overdue_s: float) -> Sequence[Checked]:
        """Check what the database alone can show, on one snapshot."""
        ...

    async def orders(self) -> Sequence[OrderRow]:
        """Read every order."""
        ...

    async def unit_changes(self, product_id: int) -> Sequence[tuple[float, int]]:
        """Read claims (negative) and releases of a product's units by time, in Unix seconds."""
        ...


class Audit:
    """The use case; it reads and changes nothing."""

    def __init__(
        self,
        *,
        truth: Truth,
        products: Products,
        gate: Gate,
        acceptance: Acceptance,
        gateway: PaymentGateway | None,
        lease_s: float,
    ) -> None:
        """Wire it; without a gateway its books are not checked. Leases live `lease_s` seconds."""
        self._lease_s = lease_s
        self._truth = truth
        self._products = products
        self._gate = gate
        self._acceptance = acceptance
        self._gateway = gateway

    async def __call__(self, *, history: History | None, overdue_s: float) -> list[Checked]:
        """Check everything; with `history` also what clients saw. An order may be overdue by `overdue_s` seconds.

        Raises:
            Unavailable: if Postgres is away.
        """
        results = list(await self._truth.check(overdue_s=overdue_s))
        results.append(await self._check_gate())
        orders = await self._truth.orders()
        results.append(await self._check_books(orders))
        if history is None:
            results += [
                Checked(invariant=name, promise=promise, checked=0, violations=0, skipped="needs --history")
                for name, promise in NEED_HISTORY.items()
            ]
        else:
            allotments = {product.product_id: product.allotment for product, _, _ in await self._products.all()}
            changes = {product_id: await self._truth.unit_changes(product_id) for product_id in allotments}
            stocks = {stock.product_id: stock for stock in await self._products.stocks()}
            results += check_history(
                history, orders, allotments, changes, stocks, overdue_s=overdue_s, lease_s=self._lease_s
            )
        return sorted(results, key=lambda result: (int(result.invariant[1:]), result.promise))

    async def _check_gate(self) -> Checked:
        promise = "Gate stock and units of leases not in Postgres are the free units (a bypassed gate counts nothing)."
        rows = await self._products.all()
        bad: list[str] = []
        tries = math.ceil((self._lease_s + GATE_LAG_S) / GATE_PAUSE_S) + 1
        for attempt in range(tries):
            bad = [str(product.product_id) for product, _, _ in rows if await self._drifts(product.product_id)]
            if not bad:
                break
            if attempt + 1 < tries:
                await asyncio.sleep(GATE_PAUSE_S)
        return Checked(invariant="I3", promise=promise, checked=len(rows), violations=len(bad), sample=tuple(bad[:5]))

    async def _drifts(self, product_id: int) -> bool:
        seen = await self._products.epoch_and_free(product_id)
        if seen is None:
            return False
        epoch, live = seen
        state = await self._gate.state(product_id, epoch)
        if not state.loaded:
            return False
        decided = await self._acceptance.accepted(state.leased_order_ids)
        open_units = state.leased_units - sum(order.quantity for order in decided.values())
        returns = await self._products.gate_returns(limit=1_000_000)
        pending = sum(one.quantity for one in returns if one.product_id == product_id)
        return state.stock + open_units + pending != live.free

    async def _check_books(self, orders: Sequence[OrderRow]) -> Checked:
        promise = "Captured less refunded money is the price of a confirmed order and 0 of any other, captured once."
        if self._gateway is None:
            return Checked(invariant="I7", promise=promise, checked=0, violations=0, skipped="no gateway is named")
        kept: dict[str, int] = {}
        twice: list[str] = []
        async for entry in self._gateway.ledger():
            kept[entry.key] = (entry.amount_minor if entry.status == "captured" else 0) - entry.refunded_minor
            if entry.captures > 1:
                twice.append(entry.key)
        bad = _unexplained(kept, orders)
        if bad:
            # Orders go on while the books are read: what looked wrong must look wrong also by their newest states.
            bad &= _unexplained(kept, await self._truth.orders())
        bad.update(twice)
        return Checked(
            invariant="I7", promise=promise, checked=len(orders), violations=len(bad), sample=tuple(sorted(bad)[:5])
        )


def _unexplained(kept: Mapping[str, int], orders: Sequence[OrderRow]) -> set[str]:
    """Give the gateway's keys whose money the states of the orders do not explain."""
    bad = set(kept) - {order.order_id for order in orders}
    for order in orders:
        money = kept.get(order.order_id, 0)
        status = OrderStatus(order.status)
        if status is OrderStatus.CONFIRMED:
            right = money == order.price_minor
        elif status in FINAL or status in RELEASING:
            right = money == 0
        else:
            right = money == 0 or (status in MAY_BE_CHARGED and money == order.price_minor)
        if not right:
            bad.add(order.order_id)
    return bad


def format_findings(results: Sequence[Checked]) -> str:
    """Give one line per check, and a last one with the verdict."""
    lines = []
    for result in results:
        if result.skipped is not None:
            verdict, count = "not checked", result.skipped
        else:
            verdict = "VIOLATED" if result.violations else "holds"
            count = f"{result.violations} of {result.checked}"
        line = f"{result.invariant:<4} {verdict:<12} {count:<16} {result.promise}"
        if result.sample:
            line += f" [{', '.join(result.sample)}]"
        lines.append(line)
    violated = sum(bool(result.violations) for result in results)
    skipped = sum(result.skipped is not None for result in results)
    held = len(results) - violated - skipped
    lines.append(f"audit: {held} hold, {violated} violated, {skipped} not checked")
    return "\n".join(lines)
