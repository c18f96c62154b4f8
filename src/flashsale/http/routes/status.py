"""The sale on one screen, for administrators: `flashsale status` prints this answer of the API."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

from litestar import get

from flashsale.http.auth import permitted
from flashsale.http.fields import ProductId, ProductName, shown
from flashsale.http.limits import limited
from flashsale.http.metrics import UseFlusher, buys_so_far
from flashsale.http.operations import SERVERS, Given, Operation
from flashsale.http.schemas import Out, ProblemOut
from flashsale.http.services import UseServices

if TYPE_CHECKING:
    from flashsale.usecases.status import ProductStatus, SaleStatus


class ProductStatusOut(Out):
    """A product's units and its gate."""

    id: ProductId
    name: ProductName
    paused: Annotated[bool, shown("Whether the sale is paused.", False)]
    allotment: Annotated[int, shown("How many units exist.", 1000, ge=0)]
    free: Annotated[int, shown("Units that nobody holds.", 212, ge=0)]
    in_payment: Annotated[int, shown("Units of orders that are neither confirmed nor given back.", 88)]
    sold: Annotated[int, shown("Units of confirmed orders.", 700, ge=0)]
    revenue: Annotated[str, shown("Prices of confirmed orders, as a decimal number.", "699993.00")]
    currency: Annotated[str, shown("The currency of the revenue, by its ISO 4217 code.", "USD")]
    gate_loaded: Annotated[bool, shown("Whether the gate decides; otherwise Postgres alone decides.", True)]
    gate_stock: Annotated[int, shown("Units that the gate counts as free.", 210)]
    gate_leases: Annotated[int, shown("Requests about which Postgres has not decided.", 2, ge=0)]
    gate_drift: Annotated[int, shown("Units that the gate counts, less those that it should count.", 0)]


class StatusOut(Out):
    """The sale at one instant."""

    products: Annotated[list[ProductStatusOut], shown("The newest products, at most 20.")]
    orders: Annotated[dict[str, int], shown("Orders by status.", {"confirmed": 700})]
    oldest_s: Annotated[
        dict[str, float],
        shown(
            "By status that is not final: seconds since the order changed that changed longest ago.", {"queued": 0.3}
        ),
    ]
    accepted_per_s: Annotated[float, shown("Orders accepted per second in the last 10 seconds.", 180.5, ge=0)]
    confirmed_per_s: Annotated[float, shown("Orders confirmed per second in the last 10 seconds.", 150.2, ge=0)]
    order_seconds: Annotated[
        dict[str, float],
        shown("By quantile: seconds from 202 to the final state, of the last five minutes' orders.", {"0.95": 6.1}),
    ]
    payments: Annotated[
        dict[str, int],
        shown("Payment attempts of the last five minutes' orders, by outcome; open: it is asked.", {"captured": 700}),
    ]
    jobs: Annotated[dict[str, int], shown("Jobs by queue and status.", {"payments todo": 12})]
    oldest_job_s: Annotated[float, shown("Seconds since the oldest job that is not failed was deferred.", 1.2, ge=0)]
    workers: Annotated[int, shown("Workers that reported within 30 seconds.", 3, ge=0)]
    buys: Annotated[
        dict[str, int] | None,
        shown(
            "Buys that the API processes of one machine answered since they started: accepted, or by the problem's "
            "code; null: not asked of an API process.",
            {"accepted": 788, "sold_out": 9100},
        ),
    ]
    problems: Annotated[list[ProblemOut], shown("What is wrong and what to do, the worst first.", [])]


STATUS = Operation(
    name="getStatus",
    summary="The sale on one screen",
    description="Return the present stock, orders, payments, jobs and gate, and what is wrong.",
    tag="administration",
    caller="staff",
    limit="administration",
    gives=(Given(status=HTTPStatus.OK, description="The sale as it is now.", model=StatusOut),),
    codes=SERVERS,
)


@get("/api/admin/status", opt={"operation": STATUS}, guards=[limited("administration"), permitted])
async def status(services: UseServices, flusher: UseFlusher) -> StatusOut:
    """Return the present state of the sale."""
    now = await services.status()
    flusher()
    return status_out(now, await buys_so_far())


def status_out(now: SaleStatus, buys: dict[str, int] | None) -> StatusOut:
    """Convert the state of the sale to its answer."""
    figures, pace = now.figures, now.pace
    return StatusOut(
        products=[_product_out(product) for product in now.products],
        orders=figures.orders,
        oldest_s=figures.oldest_s,
        accepted_per_s=pace.accepted_per_s,
        confirmed_per_s=pace.confirmed_per_s,
        order_seconds={str(quantile): seconds for quantile, seconds in figures.order_s.items()},
        payments=pace.attempts,
        jobs={f"{queue} {state}": count for (queue, state), count in sorted(figures.jobs.items())},
        oldest_job_s=max(
            (age_s for (_, state), age_s in figures.job_oldest_s.items() if state in {"todo", "doing"}), default=0.0
        ),
        workers=pace.workers,
        buys=buys,
        problems=[ProblemOut(what=problem.what, todo=problem.todo) for problem in now.problems],
    )


def _product_out(product: ProductStatus) -> ProductStatusOut:
    return ProductStatusOut(
        id=product.product_id,
        name=product.name,
        paused=product.paused,
        allotment=product.allotment,
        free=product.free,
        in_payment=product.allotment - product.free - product.sold,
        sold=product.sold,
        revenue=str(product.revenue),
        currency=product.revenue.currency,
        gate_loaded=product.gate_loaded,
        gate_stock=product.gate_stock,
        gate_leases=product.gate_leases,
        gate_drift=product.gate_drift,
    )
