"""What is wrong with a sale: each fault alone is told, and a sound sale has none."""

from dataclasses import replace
from typing import Any

import pytest

from flashsale.domain.money import Money
from flashsale.usecases.figures import Figures, Pace
from flashsale.usecases.status import ProductStatus, _problems

PRODUCT = ProductStatus(
    product_id=7,
    name="Phone",
    paused=False,
    allotment=10,
    free=4,
    sold=6,
    revenue=Money(minor=600, currency="USD"),
    gate_loaded=True,
    gate_stock=4,
    gate_leases=0,
    gate_drift=0,
)
FIGURES = Figures(
    orders={"confirmed": 6, "queued": 1},
    oldest_s={"queued": 9.0, "processing_payment": 59.0, "payment_unknown": 1.0, "awaiting_payment": 900.0},
    value_minor={},
    order_s={},
    jobs={("payments", "todo"): 3},
    job_oldest_s={("payments", "todo"): 59.0},
    outbox=[],
    notify_queue_usage=0.0,
    connections=20,
    connections_max=100,
)
PACE = Pace(accepted_per_s=1.0, confirmed_per_s=1.0, attempts={}, workers=3, postponed=0)


def told(product=PRODUCT, figures=FIGURES, pace=PACE):
    return [f"{problem.what} {problem.todo}" for problem in _problems([product], figures, pace)]


def test_a_sound_sale_has_no_problem():
    assert told() == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pace": replace(PACE, workers=0)}, "No worker"),
    ({"pace": replace(PACE, postponed=2)}, "refuses to change 2 orders"),
    ({"figures": replace(FIGURES, oldest_s={"queued": 11.0})}, "queued for 11 s"),
    ({"figures": replace(FIGURES, oldest_s={"processing_payment": 61.0})}, "gateway"),
    ({"figures": replace(FIGURES, oldest_s={"payment_unknown": 61.0})}, "gateway"),
    ({"figures": replace(FIGURES, job_oldest_s={("orders", "doing"): 61.0})}, "orders is doing for 61 s"),
    (
        {"figures": replace(FIGURES, jobs={("orders", "failed"): 4}, job_oldest_s={("orders", "failed"): 1.0})},
        "4 jobs of the queue orders failed",
    ),
    ({"figures": replace(FIGURES, connections=91)}, "91 of 100 connections"),
    ({"product": replace(PRODUCT, gate_loaded=False)}, "gate is not loaded for product 7"),
    ({"product": replace(PRODUCT, paused=True)}, "product 7 is paused"),
]


@pytest.mark.parametrize(("fault", "words"), WRONG, ids=[words for _, words in WRONG])
def test_each_fault_is_told_alone(fault, words):
    (line,) = told(**fault)
    assert words in line
