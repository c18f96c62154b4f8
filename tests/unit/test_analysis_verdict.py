"""The oracle of the comparison: each kind of fault is counted, and a sale that is right has only zeros."""

import json
from dataclasses import replace

import pytest
from analysis.verdict import Sold, judge

from flashsale.domain.payments import LedgerEntry
from flashsale.usecases.history import read_history

AT_S = 1000.0


def sold(number, *, status="confirmed", created_s=AT_S, ended_s=None):
    return Sold(
        order_id=f"order {number}",
        user_id=f"buyer {number}",
        status=status,
        quantity=1,
        created_s=created_s,
        ended_s=ended_s,
    )


def captured(order_id, captures=1):
    return LedgerEntry(
        key=order_id,
        status="captured",
        amount_minor=1,
        currency="USD",
        refunded_minor=0,
        captures=captures,
        reference="r",
    )


def buy(number, *, at_s=AT_S, code=None):
    return {
        "kind": "buy",
        "user": f"buyer {number}",
        "key": "k",
        "product": 1,
        "quantity": 1,
        "sent_at": at_s,
        "answered_at": at_s + 0.1,
        "status": 409 if code else 202,
        "order_id": None if code else f"order {number}",
        "code": code,
        "body": None,
    }


def a_right_sale():
    """Two units, two orders, and a third buyer who is told so afterwards."""
    return {
        "allotment": 2,
        "offered": 0,
        "orders": [sold(1), sold(2)],
        "buys": [buy(1), buy(2), buy(3, at_s=AT_S + 5, code="sold_out")],
        "ledger": {"order 1": [captured("order 1")], "order 2": [captured("order 2")]},
    }


def verdict_of(sale):
    buys = sale.pop("buys")
    return judge(**sale, history=read_history(json.dumps(one) for one in buys))


def test_a_sale_that_is_right_has_only_zeros():
    assert verdict_of(a_right_sale()).right


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("oversold", {"allotment": 1}),
        ("lost", {"buys": [buy(1), buy(2), buy(9)]}),
        ("leaked", {"allotment": 3}),
        ("stuck", {"orders": [sold(1), replace(sold(2), status="queued")]}),
        ("charged_twice", {"ledger": {"order 1": [captured("order 1", 2)], "order 2": [captured("order 2")]}}),
        ("charged_wrongly", {"ledger": {"order 1": [captured("order 1")]}}),
        ("charged_wrongly", {"ledger": {f"order {n}": [captured(f"order {n}")] for n in (1, 2, 3)}}),
        ("refused_falsely", {"buys": [buy(1), buy(2), buy(3, at_s=AT_S - 5, code="sold_out")]}),
    ],
)
def test_each_fault_is_counted_once_under_its_name(column, change):
    verdict = verdict_of({**a_right_sale(), **change})
    assert getattr(verdict, column) == 1
    assert not verdict.right


def test_a_unit_that_came_back_counts_as_free_only_once_its_commit_may_have_been_seen():
    sale = a_right_sale()
    back = sold(2, status="payment_failed", ended_s=AT_S + 4.9)
    sale |= {"orders": [sold(1), back], "offered": 1, "ledger": {"order 1": [captured("order 1")]}}
    assert verdict_of({**sale, "buys": [buy(3, at_s=AT_S + 5, code="sold_out")]}).refused_falsely == 0
    assert verdict_of({**sale, "buys": [buy(3, at_s=AT_S + 6, code="sold_out")]}).refused_falsely == 1
