from dataclasses import replace

import pytest

from flashsale.domain.products import LiveStock
from flashsale.usecases.history import OrderRow, read_history
from flashsale.usecases.history_audit import Steps, check_history

ORDER = OrderRow(
    order_id="o1", user_id="u1", key="k1", status="confirmed", version=5, product_id=1, product_name="Phone",
    quantity=1, unit_price_minor=100, currency="USD", price_minor=100, created_at_s=100.05,
)  # fmt: skip
EVENTS = {("o1", 4): "processing_payment", ("o1", 5): "confirmed"}
STOCK = {1: LiveStock(product_id=1, free=0, version=3)}


def buy(**changes):
    line = {
        "kind": "buy", "user": "u1", "key": "k1", "product": 1, "quantity": 1, "sent_at": 100.0, "answered_at": 100.1,
        "status": 202, "order_id": "o1", "code": None, "body": "b",
    }  # fmt: skip
    return {**line, **changes}


def violated(lines, *, allotment=1, changes=((100.05, -1),), order=ORDER):
    import json

    history = read_history(json.dumps(line) for line in lines)
    results = check_history(
        history, [order], {1: (allotment, allotment)}, {1: list(changes)}, STOCK, EVENTS, overdue_s=60, lease_s=10
    )
    return {result.invariant for result in results if result.violations}


def stock(version, reader="r", **changes):
    return {"kind": "stock", "reader": reader, "product": 1, "version": version, "stock": 0, **changes}


def test_a_history_that_is_right_violates_nothing():
    lines = [
        buy(), buy(sent_at=101.0, answered_at=101.1),
        buy(user="u2", key="k2", status=409, code="sold_out", order_id=None, body=None, sent_at=100.2, answered_at=100.3),
        stock(1), stock(3), stock(2, reader="other"), stock(3, last=True),
        {"kind": "order", "reader": "p", "order_id": "o1", "version": 4, "status": "processing_payment"},
        {"kind": "order", "reader": "p", "order_id": "o1", "version": 5, "status": "confirmed"},
    ]  # fmt: skip
    assert violated(lines) == set()


@pytest.mark.parametrize(
    ("lines", "invariant"),
    [
        pytest.param([buy(order_id="lost")], "I4", id="a 202 that is no order"),
        pytest.param([buy(user="u2")], "I4", id="a 202 of somebody else"),
        pytest.param([stock(3), stock(2)], "I6", id="a version goes back"),
        pytest.param([buy(), buy(body="other")], "I9", id="a replay with another body"),
        pytest.param([stock(2, last=True)], "I14", id="a stream stays behind"),
        pytest.param(
            [buy(status=409, code="sold_out", order_id=None, body=None, sent_at=90.0, answered_at=90.1)],
            "I20",
            id="sold out while a unit was free",
        ),
    ],
)
def test_what_went_wrong_is_found(lines, invariant):
    assert violated(lines) == {invariant}


ANSWER = {"product": 1, "name": "Phone", "price": "1.00", "currency": "USD", "quantity": 1}
COMPLETE = {"kind": "complete", "product": 1}


@pytest.mark.parametrize(
    ("lines", "invariants"),
    [
        pytest.param([buy(answer=ANSWER)], set(), id="right"),
        *(
            pytest.param([buy(answer={**ANSWER, name: wrong})], {"I4"}, id=f"another {name}")
            for name, wrong in [
                ("product", 2),
                ("name", "Case"),
                ("price", "1.01"),
                ("currency", "EUR"),
                ("quantity", 3),
            ]
        ),
        pytest.param([buy(quantity=3)], {"I4"}, id="asked for 3"),
        pytest.param([buy(key="other")], {"I4"}, id="another key"),
        pytest.param([buy(sent_at=1000.0, answered_at=1000.1)], {"I4"}, id="asked for after it was made"),
        pytest.param([buy(), buy(user="u2", key="k2")], {"I4", "I9"}, id="one order for two"),
        pytest.param([COMPLETE, buy()], set(), id="asked for"),
        pytest.param([COMPLETE, buy(status=0, order_id=None, body=None)], set(), id="asked for, without an answer"),
        pytest.param([COMPLETE], {"I4"}, id="asked for by nobody"),
        pytest.param([{**COMPLETE, "product": 2}], set(), id="of another product"),
        pytest.param([buy(status=503)], {"I4"}, id="an order and a refusal in one"),
    ],
)
def test_a_202_says_what_its_order_is(lines, invariants):
    assert violated(lines) == invariants


@pytest.mark.parametrize(
    ("sent_at", "changes", "found"),
    [
        pytest.param(130.0, [(100.05, -1), (110.0, 1)], True, id="free for longer than a lease lives, and still"),
        pytest.param(120.0, [(100.05, -1), (110.0, 1)], False, id="free for a moment"),
        pytest.param(130.0, [(100.05, -1), (110.0, 1), (140.0, -1)], False, id="sold later"),
        pytest.param(130.0, [(100.05, -1)], False, id="never free"),
    ],
)
def test_what_is_free_to_this_day_was_refused_to_nobody_who_came_late_enough(sent_at, changes, found):
    refused = buy(
        user="u2", key="k2", status=409, code="sold_out", order_id=None, body=None, sent_at=sent_at,
        answered_at=sent_at + 0.1,
    )  # fmt: skip
    assert ("I18" in violated([buy(), refused], changes=changes)) is found


@pytest.mark.parametrize(("overdue_s", "found"), [(-5.0, set()), (59.0, set()), (61.0, {"I4"})])
def test_an_order_that_is_not_final_may_be_late_but_not_lost(overdue_s, found):
    waiting = replace(ORDER, status="awaiting_payment", overdue_s=overdue_s)
    assert violated([buy()], order=waiting) == found


def sold_out(**changes):
    return buy(status=409, code="sold_out", order_id=None, body=None, **changes)


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([buy(user="u3", sent_at=89.9, answered_at=100.2)], id="on its way"),
        pytest.param([buy(user="u3", status=503, sent_at=85.0, answered_at=85.1)], id="undecided"),
        pytest.param([buy(user="u3", status=0, sent_at=89.9, answered_at=99.9)], id="without an answer"),
    ],
)
def test_requests_of_others_excuse_no_sold_out(others):
    assert "I20" in violated([sold_out(sent_at=90.0, answered_at=90.1), *others])


def test_sold_out_is_right_for_more_than_what_is_free():
    refused = sold_out(sent_at=90.0, answered_at=90.1, quantity=2)
    assert "I20" not in violated([refused])
    assert "I20" in violated([refused], allotment=2, changes=[])


BACK = [(80.0, -1), (89.5, 1)]
"""The only unit is sold, and comes back half a second before the answers at 90."""


@pytest.mark.parametrize(
    ("old", "right", "found"), [(20, 0, set()), (21, 0, {"I20"}), (21, 500, set()), (40, 500, {"I20"})]
)
def test_few_sold_out_answers_may_be_right_only_before_they_were_asked_for(old, right, found):
    lines = [sold_out(user=f"o{number}", sent_at=90.0, answered_at=90.1) for number in range(old)]
    lines += [sold_out(user=f"r{number}", sent_at=85.0, answered_at=85.1) for number in range(right)]
    assert violated(lines, changes=BACK) == found
    # Not even that if the unit was free for longer than a second.
    assert violated([sold_out(sent_at=91.0, answered_at=91.1)], changes=BACK) == {"I20"}


def test_steps_give_extremes_within_a_time():
    steps = Steps(1, [(10.0, -1), (20.0, 2)])
    assert (steps.least(0, 5), steps.least(5, 15), steps.least(25, 30)) == (1, 0, 2)


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"kind":"other"}', "[]"])
def test_a_file_that_is_no_history_is_refused_by_line(line):
    with pytest.raises(ValueError, match="line 1 "):
        read_history([line])
