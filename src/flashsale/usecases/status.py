"""The sale on one screen: what sells, what waits, what is wrong and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.usecases.figures import compare_gate
from flashsale.usecases.readiness import PROVIDER_AWAY, Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from flashsale.domain.products import Product
    from flashsale.usecases.figures import Figures, FiguresSource, GateFigures, Pace, Sales
    from flashsale.usecases.ports import Acceptance, Gate, Products

PRODUCTS_MAX = 20
"""Number of products that are shown, the newest first."""

WAITS_S = {OrderStatus.QUEUED: 10.0, OrderStatus.PROCESSING_PAYMENT: 60.0, OrderStatus.PAYMENT_UNKNOWN: 60.0}
"""An order that stays longer in a state than this is a problem."""

JOB_S = 60.0
"""A job that is older than this is a problem; the alert JobsStuck waits as long."""

WAITS_FOR = {
    OrderStatus.QUEUED: "Start more order workers; see OrdersQueuedTooLong in the runbook.",
    OrderStatus.PROCESSING_PAYMENT: "See whether the payment gateway answers, and start more payment workers.",
    OrderStatus.PAYMENT_UNKNOWN: "The payment gateway does not say whether it charged: see whether it answers.",
}

FULL = 0.9
"""Share of Postgres' connections in use that is a problem."""

SOLD = frozenset({OrderStatus.CONFIRMED, OrderStatus.REFUND_PENDING})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductStatus:
    """A product's units and its gate."""

    product_id: int
    name: str
    paused: bool
    allotment: int
    free: int
    sold: int
    """Units of confirmed orders."""
    revenue: Money
    """Prices of confirmed orders."""
    gate_loaded: bool
    gate_stock: int
    gate_leases: int
    gate_drift: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleStatus:
    """The sale at one instant."""

    products: Sequence[ProductStatus]
    figures: Figures
    pace: Pace
    problems: Sequence[Problem]


class Status:
    """The use case."""

    def __init__(
        self,
        figures: FiguresSource,
        products: Products,
        gate: Gate,
        acceptance: Acceptance,
        provider_away: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """Read from these; `provider_away` as in `Readiness`."""
        self._provider_away = provider_away
        self._figures = figures
        self._products = products
        self._gate = gate
        self._acceptance = acceptance

    async def __call__(self) -> SaleStatus:
        """Read Postgres and the gate, and say what is wrong.

        Raises:
            Unavailable: if Postgres is away.
        """
        figures, pace = await self._figures.read(), await self._figures.pace()
        gates = await compare_gate(self._figures, self._gate, self._acceptance, limit=PRODUCTS_MAX)
        counts = {one.count.product_id: one for one in gates}
        sales = await self._figures.sales(list(counts))
        known = [product for product, _ in await self._products.all(list(counts))]
        products = [
            _product(product, counts[product.product_id], sales)
            for product in sorted(known, key=lambda product: product.product_id, reverse=True)
        ]
        problems = [*_problems(products, figures, pace)]
        if self._provider_away is not None and await self._provider_away():
            problems.insert(0, PROVIDER_AWAY)
        return SaleStatus(products=products, figures=figures, pace=pace, problems=problems)


def _product(product: Product, gate: GateFigures, sales: Sequence[Sales]) -> ProductStatus:
    sold = [one for one in sales if one.product_id == product.product_id and one.status in SOLD]
    return ProductStatus(
        product_id=product.product_id,
        name=product.name,
        paused=product.paused,
        allotment=gate.count.allotment,
        free=gate.count.free,
        sold=sum(one.units for one in sold),
        revenue=Money(minor=sum(one.value_minor for one in sold), currency=product.price.currency),
        gate_loaded=gate.state.loaded,
        gate_stock=gate.state.stock,
        gate_leases=gate.state.leases,
        gate_drift=gate.drift,
    )


def _problems(products: Sequence[ProductStatus], figures: Figures, pace: Pace) -> Iterator[Problem]:
    """Describe the problems, the worst first; docs/how-to/runbook.md has more on each."""
    yield from _work_problems(figures, pace)
    bypassed = [str(product.product_id) for product in products if not product.gate_loaded]
    if bypassed:
        yield Problem(
            what=f"The gate is not loaded for product {', '.join(bypassed)}: Postgres alone decides.",
            todo="Bring Redis back, if it is away; the gate is loaded by itself.",
        )
    if figures.connections > FULL * figures.connections_max:
        yield Problem(
            what=f"{figures.connections} of {figures.connections_max} connections to Postgres are in use.",
            todo="Use fewer processes or smaller pools (FLASHSALE_POSTGRES__POOL_MAX), or raise max_connections.",
        )
    paused = [str(product.product_id) for product in products if product.paused]
    if paused:
        yield Problem(
            what=f"The sale of product {', '.join(paused)} is paused.",
            todo="Resume it, if nobody wants the pause: POST /api/admin/products/<id>/resume.",
        )


def _work_problems(figures: Figures, pace: Pace) -> Iterator[Problem]:
    if not pace.workers:
        yield Problem(
            what="No worker has reported for 30 s: orders are accepted and none is paid.",
            todo="Start the order, payment and maintenance workers, or see why they ended.",
        )
    for status, most_s in WAITS_S.items():
        if (oldest_s := figures.oldest_s.get(status, 0.0)) > most_s:
            yield Problem(what=f"An order is {status} for {oldest_s:.0f} s.", todo=WAITS_FOR[status])
    for (queue, job_status), age_s in sorted(figures.job_oldest_s.items()):
        if job_status in {"todo", "doing"} and age_s > JOB_S:
            yield Problem(
                what=f"A job of the queue {queue} is {job_status} for {age_s:.0f} s.",
                todo=f"Start more workers of {queue}; see JobsStuck in the runbook.",
            )
        if job_status == "failed":
            yield Problem(
                what=f"{figures.jobs[queue, job_status]} jobs of the queue {queue} failed.",
                todo="The sweep repeats their work; the workers' log says why: see JobsFailing in the runbook.",
            )
    if pace.postponed:
        yield Problem(
            what=f"Postgres refuses to change {pace.postponed} orders.",
            todo="See OrdersPostponed in the runbook; the others go on.",
        )
