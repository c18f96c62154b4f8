"""The audit: recompute every invariant from Postgres, the gate, the gateway's books and what clients saw."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from flashsale.domain.payment_errors import NotSupported
from flashsale.domain.requests import BuyRequest
from flashsale.usecases import gate_audit, ledger_audit
from flashsale.usecases.findings import Checked, found, skipped
from flashsale.usecases.history_audit import check_history

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.usecases.history import History, OrderRow
    from flashsale.usecases.payment_ports import PaymentGateway
    from flashsale.usecases.ports import Products
    from flashsale.usecases.settle import Settle

NEED_HISTORY = {
    "I4": "Every 202 that a client saw is that client's order, and final or on its way.",
    "I6": "Versions seen by one reader never go back.",
    "I9": "A repeated key gets the same 202.",
    "I14": "At the end every stream shows the database's value.",
    "I18": "If demand lasts, everything is sold.",
    "I20": "Sold out was said only when no unit was free.",
}


SETTLED = "What the provider holds for each order is what the order says (`flashsale reconcile payments`)."


DAY = timedelta(days=1)


class Truth(gate_audit.Returns, ledger_audit.Books, Protocol):
    """What the audit reads from Postgres."""

    async def check(self, *, overdue_s: float, stuck_s: float) -> Sequence[Checked]:
        """Check the invariants that the database alone can show, on one snapshot."""
        ...

    async def fingerprints(self) -> Sequence[tuple[BuyRequest, bytes, int, str]]:
        """Read the use of each key: a request, the stored fingerprint, the number of orders, the id of one order."""
        ...

    async def allotments(self) -> Mapping[int, tuple[int, int]]:
        """Read the first and the highest allotment of products."""
        ...

    async def unit_changes(self, product_id: int) -> Sequence[tuple[float, int]]:
        """Read when units of a product came free (negative: were taken), in Unix seconds, in order."""
        ...

    async def events(self, order_ids: Sequence[str]) -> Mapping[tuple[str, int], str]:
        """Read the status of orders in each version."""
        ...


class Audit:
    """The use case. The audit only reads."""

    def __init__(
        self,
        *,
        truth: Truth,
        products: Products,
        gate: gate_audit.GateAudit,
        gateway: PaymentGateway | None,
        settle: Settle | None,
        lease_s: float,
    ) -> None:
        """Keep the parts; without a gateway its ledger is not checked. Leases live `lease_s` seconds."""
        self._settle = settle
        self._truth = truth
        self._products = products
        self._gate = gate
        self._gateway = gateway
        self._lease_s = lease_s

    async def __call__(self, *, history: History | None, overdue_s: float, stuck_s: float) -> list[Checked]:
        """Check everything; with `history` also what clients saw.

        An order may be overdue by `overdue_s` seconds, and may stay in a state that is not final for `stuck_s`.

        Raises:
            Unavailable: if Postgres is away.
        """
        results = list(await self._truth.check(overdue_s=overdue_s, stuck_s=stuck_s))
        results.append(await self._gate())
        results.append(await self._check_fingerprints())
        orders = await self._truth.orders()
        results.append(await ledger_audit.check_ledger(self._truth, orders, self._gateway))
        results.append(await self._check_settlement(orders))
        if history is None:
            results += [skipped(name, promise, "needs --history") for name, promise in NEED_HISTORY.items()]
        else:
            results += await self._check_history(history, orders, overdue_s)
        return sorted(results, key=lambda result: (int(result.invariant[1:]), result.promise))

    async def _check_fingerprints(self) -> Checked:
        kept = await self._truth.fingerprints()
        bad = [order_id for request, fingerprint, _, order_id in kept if fingerprint != request.fingerprint()]
        checked = sum(orders for _, _, orders, _ in kept)
        return found("I9", "The fingerprint of a key matches the product and quantity of its order.", checked, bad)

    async def _check_settlement(self, orders: Sequence[OrderRow]) -> Checked:
        if self._settle is None:
            return skipped("I7", SETTLED, "no gateway is named")
        try:
            now = datetime.now(UTC)
            bad = [one.order_id async for one in self._settle(since=_oldest(orders, now), now=now)]
        except NotSupported as error:
            return skipped("I7", SETTLED, error.detail)
        return found("I7", SETTLED, len(orders), bad)

    async def _check_history(self, history: History, orders: Sequence[OrderRow], overdue_s: float) -> Sequence[Checked]:
        named = {entry["product"] for entry in (*history.buys, *history.stocks)}
        allotments = {
            product_id: units for product_id, units in (await self._truth.allotments()).items() if product_id in named
        }
        return check_history(
            history,
            orders,
            allotments,
            {product_id: await self._truth.unit_changes(product_id) for product_id in allotments},
            {stock.product_id: stock for stock in await self._products.stocks()},
            await self._truth.events(sorted({entry["order_id"] for entry in history.orders})),
            overdue_s=overdue_s,
            lease_s=self._lease_s,
        )


def _oldest(orders: Sequence[OrderRow], now: datetime) -> datetime:
    """Return since when payments are settled: the oldest order, by the time in its id, and a day at least."""
    # I16 reports a row without an id.
    ids = [UUID(order.order_id) for order in orders if order.order_id]
    return min(datetime.fromtimestamp((min(ids).int >> 80) / 1000, UTC) if ids else now, now - DAY)
