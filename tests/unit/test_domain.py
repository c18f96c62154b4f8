import re
from pathlib import Path

import pytest

from flashsale.domain.errors import InvalidInput
from flashsale.domain.money import Money, parse_money
from flashsale.domain.orders import FINAL, RELEASING, TRANSITIONS, OrderStatus
from flashsale.domain.requests import BuyRequest, check_key, order_id_at

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("text", "minor"), [("999.99", 99_999), ("5", 500), ("0.5", 50), ("10000000000.00", 10**12)])
def test_money_is_read_and_written_exactly(text, minor):
    money = parse_money(text, "USD")
    assert money.minor == minor
    assert parse_money(str(money), "USD") == money


@pytest.mark.parametrize("text", ["", "-1", "1.234", "1,5", "0", "0.00", "1e3", " 1", "NaN", "99999999999", "\u0661"])
def test_a_price_that_is_no_positive_amount_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_money(text, "USD")


def test_money_times_quantity():
    assert Money(minor=99_999, currency="USD").times(3) == Money(minor=299_997, currency="USD")


def test_order_ids_are_version_7_and_rise_with_time():
    ids = [order_id_at(ms, bytes(range(10))) for ms in (1, 2, 1_700_000_000_000, 2**48 - 1)]
    assert ids == sorted(ids)
    assert {order_id.version for order_id in ids} == {7}
    assert len({order_id_at(5, bytes([n] * 10)) for n in range(256)}) > 200


@pytest.mark.parametrize("key", ["", "a" * 256, "tab\t", "nul\x00", "ümlaut", " lead", "line\n"])
def test_an_idempotency_key_that_is_not_printable_ascii_is_refused(key):
    with pytest.raises(InvalidInput):
        check_key(key)


def test_the_fingerprint_tells_bodies_apart():
    def fingerprint(product_id, quantity):
        user = order_id_at(0, bytes(10))
        return BuyRequest(user_id=user, product_id=product_id, quantity=quantity, key=None).fingerprint()

    assert len({fingerprint(1, 1), fingerprint(1, 2), fingerprint(11, 1), fingerprint(2, 1)}) == 4
    assert fingerprint(1, 11) != fingerprint(11, 1)


def test_final_states_lead_nowhere_but_confirmed_to_a_refund():
    from_final = {edge for edge in TRANSITIONS if edge[0] in FINAL}
    assert from_final == {(OrderStatus.CONFIRMED, OrderStatus.REFUND_PENDING)}


def test_units_go_back_exactly_where_an_order_ends_unconfirmed():
    assert {OrderStatus.CONFIRMED, OrderStatus.REFUNDED} == FINAL - RELEASING


def test_every_state_can_be_reached_from_queued():
    reached, todo = set(), [OrderStatus.QUEUED]
    while todo:
        status = todo.pop()
        reached.add(status)
        todo += [after for before, after in TRANSITIONS if before is status and after not in reached]
    assert reached == set(OrderStatus)


def test_the_drawing_of_the_states_is_the_transition_table():
    drawn = re.findall(r"^ +(\w+) --> (\w+)", (ROOT / "docs/explanation/states.md").read_text(), re.MULTILINE)
    assert {(before, after) for before, after in drawn} == {(a.value, b.value) for a, b in TRANSITIONS}
