"""Metrics of the counts in Postgres and at the gate. One exporter is enough, because all would show the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from prometheus_client.core import GaugeMetricFamily

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.money import Money
from flashsale.domain.orders import FINAL, OrderStatus
from flashsale.usecases.figures import QUEUES, compare_gate
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client.metrics_core import Metric

    from flashsale.usecases.figures import Figures, FiguresSource, GateFigures
    from flashsale.usecases.ports import Acceptance, Gate

log = structlog.get_logger(__name__)

PRODUCTS_MAX = 100
"""Number of products, the newest, with separate metrics; it bounds the label values."""

JOB_STATUSES = ("todo", "doing", "failed")
"""Statuses in which jobs stay for a while: a job that succeeded is deleted."""


class SaleMetrics:
    """Reads Postgres and the gate for one scrape."""

    def __init__(self, figures: FiguresSource, gate: Gate, acceptance: Acceptance) -> None:
        """Read from these."""
        self._figures = figures
        self._gate = gate
        self._acceptance = acceptance

    async def read(self) -> list[Metric]:
        """Return every family; if Postgres is away, or refuses, only `flashsale_truth_up 0`."""
        try:
            figures = await self._figures.read()
            gates = await compare_gate(self._figures, self._gate, self._acceptance, limit=PRODUCTS_MAX)
        except (FlashSaleError, PoisonBatch) as error:
            log.warning("metrics.truth_unread", reason=str(error).partition("\n")[0])
            return [_gauge("flashsale_truth_up", "1 if Postgres could be read.", 0)]
        return [
            _gauge("flashsale_truth_up", "1 if Postgres could be read.", 1),
            *_order_families(figures),
            *_job_families(figures),
            *_outbox_families(figures),
            *_server_families(figures),
            *_gate_families(gates),
        ]


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _order_families(figures: Figures) -> Iterable[Metric]:
    orders = GaugeMetricFamily("flashsale_orders", "Orders by status.", labels=["status"])
    oldest = GaugeMetricFamily(
        "flashsale_orders_oldest_seconds",
        "Seconds since the order that changed longest ago did, by status that is not final; 0 without orders.",
        labels=["status"],
    )
    value = GaugeMetricFamily(
        "flashsale_orders_value", "Prices of the orders, in the currency's own unit.", labels=["status", "currency"]
    )
    seconds = GaugeMetricFamily(
        "flashsale_order_seconds",
        "From 202 to the final state, or until now, of the last five minutes' orders that no buyer has to pay.",
        labels=["quantile"],
    )
    for status in OrderStatus:
        orders.add_metric([status], figures.orders.get(status, 0))
        if status not in FINAL:
            oldest.add_metric([status], figures.oldest_s.get(status, 0))
    for (status_name, currency), minor in figures.value_minor.items():
        value.add_metric([status_name, currency], float(str(Money(minor=minor, currency=currency))))
    for quantile, order_s in figures.order_s.items():
        seconds.add_metric([str(quantile)], order_s)
    return orders, oldest, value, seconds


def _job_families(figures: Figures) -> Iterable[Metric]:
    jobs = GaugeMetricFamily("flashsale_jobs", "Jobs by queue and status.", labels=["queue", "status"])
    oldest = GaugeMetricFamily(
        "flashsale_jobs_oldest_seconds",
        "Seconds since the oldest job was deferred, by queue and status; 0 without jobs.",
        labels=["queue", "status"],
    )
    for key in [(queue, status) for queue in QUEUES for status in JOB_STATUSES]:
        jobs.add_metric(key, figures.jobs.get(key, 0))
        oldest.add_metric(key, figures.job_oldest_s.get(key, 0))
    return jobs, oldest


def _outbox_families(figures: Figures) -> Iterable[Metric]:
    label = ["target"]
    waiting = GaugeMetricFamily("flashsale_outbox_waiting", "Messages that were not delivered yet.", labels=label)
    dead = GaugeMetricFamily("flashsale_outbox_dead", "Messages that were given up and are kept.", labels=label)
    oldest = GaugeMetricFamily(
        "flashsale_outbox_oldest_seconds", "Age of the message that waits longest; 0 if none waits.", labels=label
    )
    for told in figures.outbox:
        waiting.add_metric([told.target], told.waiting)
        dead.add_metric([told.target], told.dead)
        oldest.add_metric([told.target], told.oldest_s)
    return waiting, dead, oldest


def _server_families(figures: Figures) -> Iterable[Metric]:
    return (
        _gauge(
            "flashsale_notify_queue_usage",
            "Share of Postgres' notification queue in use, 0 to 1.",
            figures.notify_queue_usage,
        ),
        _gauge("flashsale_postgres_connections", "Connections to Postgres, of everybody.", figures.connections),
        _gauge("flashsale_postgres_connections_max", "Connections that Postgres allows.", figures.connections_max),
    )


def _gate_families(gates: Sequence[GateFigures]) -> Iterable[Metric]:
    label = ["product"]
    allotment = GaugeMetricFamily("flashsale_allotment", "Units that exist.", labels=label)
    free = GaugeMetricFamily("flashsale_free_units", "Free units in Postgres.", labels=label)
    returning = GaugeMetricFamily(
        "flashsale_returning_units", "Free units whose return the gate has not counted.", labels=label
    )
    loaded = GaugeMetricFamily("flashsale_gate_loaded", "1 if the gate is loaded, 0 if bypassed.", labels=label)
    stock = GaugeMetricFamily("flashsale_gate_stock", "Units that the gate counts as free.", labels=label)
    leases = GaugeMetricFamily("flashsale_gate_leases", "Leases that wait for Postgres.", labels=label)
    drift = GaugeMetricFamily(
        "flashsale_gate_drift_units",
        "Units that a loaded gate counts, free or leased to requests that are no order, less those it should count.",
        labels=label,
    )
    for one in gates:
        product = [str(one.count.product_id)]
        allotment.add_metric(product, one.count.allotment)
        free.add_metric(product, one.count.free)
        returning.add_metric(product, one.count.on_return)
        loaded.add_metric(product, one.state.loaded)
        if one.state.loaded:
            stock.add_metric(product, one.state.stock)
            leases.add_metric(product, one.state.leases)
            drift.add_metric(product, one.drift)
    return allotment, free, returning, loaded, stock, leases, drift
