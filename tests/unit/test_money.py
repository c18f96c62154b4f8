"""Amounts in every currency of ISO 4217: read, written, and as Stripe writes them."""

from __future__ import annotations

import itertools
import re

import iso4217
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.adapters.payments.stripe_amounts import TENS, ZERO_DECIMALS, from_stripe, to_stripe
from flashsale.domain.errors import InvalidInput
from flashsale.domain.money import EXPONENTS, PRICE_MINOR_MAX, Money, parse_money

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
EDGES = (1, 9, 10, 11, 99, 100, 101, 999, 1000, 1001, 99_999, PRICE_MINOR_MAX - 1, PRICE_MINOR_MAX)
CODES = sorted(EXPONENTS)


def refused(text, currency):
    with pytest.raises(InvalidInput) as refusal:
        parse_money(text, currency)
    return refusal.value.field


def test_of_all_codes_of_three_letters_the_currencies_of_the_list_are_known():
    known = set()
    for letters in itertools.product(LETTERS, repeat=3):
        code = "".join(letters)
        try:
            known.add(parse_money("1", code).currency)
        except InvalidInput:
            continue
    listed = {code for code, row in iso4217.raw_table.items() if code and str(row["CcyMnrUnts"]).isdigit()}
    assert known == listed
    assert {"XAU", "XXX", "XTS", "QQQ"}.isdisjoint(known)
    assert len(known) > 150
    assert [EXPONENTS[code] for code in ("JPY", "USD", "KWD", "CLF")] == [0, 2, 3, 4]


@pytest.mark.parametrize("currency", ["usd", "US", "USDT", "", "QQQ", "XAU", "U\u0405D", "USD\n"])
def test_what_is_no_currency_is_refused(currency):
    assert refused("1", currency) == "currency"


def test_in_each_currency_what_is_written_is_read_as_the_same_amount():
    for code, minor in itertools.product(CODES, EDGES):
        money = Money(minor=minor, currency=code)
        assert parse_money(str(money), code) == money
        assert re.fullmatch(rf"[0-9]+\.[0-9]{{{EXPONENTS[code]}}}" if EXPONENTS[code] else "[0-9]+", str(money))


@given(st.sampled_from(CODES), st.integers(1, PRICE_MINOR_MAX))
def test_any_amount_is_read_and_written_exactly(code, minor):
    money = Money(minor=minor, currency=code)
    assert parse_money(str(money), code) == money
    assert str(Money(minor=-minor, currency=code)) == f"-{money}"


@given(st.sampled_from(CODES), st.integers(0, 10**6), st.text("0123456789", max_size=8))
def test_the_decimals_decide_whether_an_amount_is_taken(code, whole, decimals):
    text = f"{whole}.{decimals}" if decimals else str(whole)
    exponent = EXPONENTS[code]
    if len(decimals) > exponent or not int(f"{whole}{decimals}"):
        assert refused(text, code) == "price"
    else:
        assert parse_money(text, code).minor * 10 ** len(decimals) == int(f"{whole}{decimals}") * 10**exponent


def test_in_each_currency_too_many_decimals_and_too_much_money_are_refused():
    for code in CODES:
        for more in range(1, 4):
            assert refused("1." + "0" * (EXPONENTS[code] + more), code) == "price"
        assert refused(str(Money(minor=PRICE_MINOR_MAX + 1, currency=code)), code) == "price"
        assert refused("0", code) == refused("-1", code) == refused("1e3", code) == refused("1,5", code) == "price"


def test_in_each_currency_stripe_gets_an_amount_back_as_it_was_or_refuses_it():
    taken, turned_away = set(), set()
    for code, minor in itertools.product(CODES, EDGES):
        money = Money(minor=minor, currency=code)
        try:
            sent = to_stripe(money)
        except InvalidInput:
            turned_away.add(code)
        else:
            taken.add(code)
            assert from_stripe(sent, code.lower()) == money
    assert {code for code, exponent in EXPONENTS.items() if exponent == 2} <= taken
    # In which no amount, or not every amount, can be charged.
    assert turned_away == {"MGA", "IQD", "LYD", "CLF", "UYW", "UYI"} | TENS


@pytest.mark.parametrize(
    ("price", "code", "sent"),
    [
        ("10.50", "USD", 1050),
        ("500", "JPY", 500),
        ("500", "ISK", 50_000),
        ("500", "UGX", 50_000),
        ("5.120", "KWD", 5120),
        ("5.00", "MGA", 5),
    ],
)
def test_amounts_are_sent_as_stripe_documents_them(price, code, sent):
    assert to_stripe(parse_money(price, code)) == sent


@pytest.mark.parametrize(("sent", "code"), [(50_050, "isk"), (1, "ugx"), (1, "iqd"), (1, "clf")])
def test_an_amount_that_stripe_cannot_have_meant_is_refused(sent, code):
    with pytest.raises(InvalidInput):
        from_stripe(sent, code)


def test_stripes_lists_name_currencies():
    assert EXPONENTS.keys() >= ZERO_DECIMALS | TENS
