"""The sale on one screen: what sells, what waits, what is wrong and what to do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.http.metrics import buys_so_far
from flashsale.http.routes.status import STATUS
from flashsale.pages.console import plots
from flashsale.pages.console.frame import HOME, Page, as_in_api
from flashsale.pages.console.shown import sale_state, stand
from flashsale.usecases.figures import QUEUES
from flashsale.usecases.readiness import PROVIDER_AWAY
from flashsale.usecases.status import SOLD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flashsale.domain.errors import NotOnSale
    from flashsale.http.messages import Answer
    from flashsale.pages.console.frame import Frame, Visit
    from flashsale.usecases.figures import Figures
    from flashsale.usecases.readiness import Condition, Problem
    from flashsale.usecases.status import ProductStatus, SaleStatus

FOLLOWED_MAX = 2
"""Products whose stock the page follows over streams: with HTTP/1.1 a browser opens six, for all its tabs together."""

PLOTTED_MAX = 4
"""Products whose stock is plotted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A product of the sale."""

    product: ProductStatus
    state: str
    style: str
    """The state's name in the style sheet."""
    version: int
    """Of the stock, for the script: it shows what is newer."""
    followed: bool

    @property
    def in_payment(self) -> int:
        """Return the units of orders that are neither confirmed nor given back."""
        return self.product.allotment - self.product.free - self.product.sold


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The jobs of a queue."""

    name: str
    waiting: int
    running: int
    failed: int
    oldest_s: float
    """Age of the oldest job that waits or runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The money of a currency."""

    paid: Money
    """Prices of confirmed orders."""
    refunded: Money
    """Prices of orders whose money is all back."""


class Sale:
    """The page."""

    def __init__(self, frame: Frame) -> None:
        """Use a frame."""
        self._frame = frame
        self._services = frame.services
        self._recent = frame.parts.recent

    def pages(self) -> list[Page]:
        """Return the pages."""
        return [Page(path=HOME, right=as_in_api(STATUS), view=self.screen)]

    async def screen(self, visit: Visit) -> Answer:
        """Show the screen. Its script asks for it again every two seconds."""
        now = await self._services.status()
        buys = await buys_so_far()
        samples = self._recent.samples()
        rows = self._rows(now.products)
        plotted = {row.product.product_id: row.product.name for row in rows if row.style in {"open", "out", "paused"}}
        names = dict(list(plotted.items())[:PLOTTED_MAX])
        at_s = time.monotonic()
        return self._frame.render(
            visit,
            "sale.html",
            at=datetime.now(UTC),
            problems=_problems(now, await self._services.readiness()),
            rows=rows,
            acts=stand([(row.product.product_id, row.product.name, row.style) for row in rows]),
            funnel=_funnel(buys, now.figures),
            rejects=sorted(((name, n) for name, n in buys.items() if name != plots.ACCEPTED), key=lambda one: -one[1]),
            rates=plots.rates(samples),
            pace=now.pace,
            orders=[(str(one), now.figures.orders.get(one, 0), now.figures.oldest_s.get(one)) for one in OrderStatus],
            queues=list(_queues(now.figures)),
            order_s=now.figures.order_s,
            outbox=now.figures.outbox,
            provider=self._provider(now),
            taken=list(_taken(now.figures)),
            plots=[plots.buys_per_second(samples, at_s), plots.stock(samples, names, at_s)],
        )

    def _rows(self, products: Sequence[ProductStatus]) -> list[Row]:
        rows: list[Row] = []
        for product in products:
            closed, version = self._known(product)
            state, style = sale_state(closed, free=product.free)
            followed = style in {"open", "out"} and sum(row.followed for row in rows) < FOLLOWED_MAX
            rows.append(Row(product=product, state=state, style=style, version=version, followed=followed))
        return rows

    def _known(self, product: ProductStatus) -> tuple[NotOnSale | None, int]:
        catalog = self._services.catalog
        if product.product_id not in catalog:
            return None, 0
        return catalog.closed(product.product_id), catalog.stock(product.product_id).version

    def _provider(self, now: SaleStatus) -> str:
        provider = self._services.settings.payments.provider
        if PROVIDER_AWAY in now.problems:
            return f"{provider}: away, and asked again after a pause"
        return f"{provider}: answers" if provider == "stripe" else provider


def _problems(now: SaleStatus, condition: Condition) -> list[Problem]:
    """Return everything that is wrong, the worst first, each once."""
    return list(dict.fromkeys([*condition.problems, *now.problems, *condition.notes]))


def _funnel(buys: Mapping[str, int], figures: Figures) -> list[tuple[str, int]]:
    orders = figures.orders
    paid = sum(orders.get(one, 0) for one in (*SOLD, OrderStatus.REFUNDED))
    return [
        ("buys answered", sum(buys.values())),
        ("orders accepted", sum(orders.values())),
        ("orders paid", paid),
    ]


def _queues(figures: Figures) -> Iterator[Queue]:
    for name in QUEUES:
        counts = {status: figures.jobs.get((name, status), 0) for status in ("todo", "doing", "failed")}
        oldest_s = max(figures.job_oldest_s.get((name, status), 0.0) for status in ("todo", "doing"))
        yield Queue(
            name=name, waiting=counts["todo"], running=counts["doing"], failed=counts["failed"], oldest_s=oldest_s
        )


def _taken(figures: Figures) -> Iterator[Taken]:
    for currency in sorted({currency for _, currency in figures.value_minor}):
        sums = {status: minor for (status, of), minor in figures.value_minor.items() if of == currency}
        paid = sum(sums.get(status, 0) for status in SOLD)
        refunded = sums.get(OrderStatus.REFUNDED, 0)
        if paid or refunded:
            yield Taken(paid=Money(minor=paid, currency=currency), refunded=Money(minor=refunded, currency=currency))
