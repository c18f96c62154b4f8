"""The settlement: each cause, and the same result as a comparison of everything with everything."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import LedgerEntry
from flashsale.domain.requests import order_id_at
from flashsale.usecases.settle import Cause, Paid, Settle, SettledOrder, compare
from tests.support.refunding import Provider

S = OrderStatus
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 2, 1, tzinfo=UTC)
FIRST_MS = int(SINCE.timestamp() * 1000)


def order(status, *, refunded=0, refunding=0, order_id=None, moved_at=SINCE):
    return SettledOrder(order_id or UUID(int=1), status, 1000, "USD", refunded, refunding, moved_at)


@pytest.mark.parametrize(
    ("one", "paid", "cause"),
    [
        (order(S.CONFIRMED), Paid(1000, 0, "USD"), None),
        (order(S.CONFIRMED), Paid(0, 0, "USD"), Cause.NOT_CAPTURED),
        (order(S.CONFIRMED), Paid(999, 0, "USD"), Cause.AMOUNT_DIFFERS),
        (order(S.CONFIRMED), Paid(2000, 0, "USD"), Cause.AMOUNT_DIFFERS),
        (order(S.CONFIRMED), Paid(2000, 1000, "USD"), None),
        (order(S.CONFIRMED), Paid(2000, 1001, "USD"), Cause.AMOUNT_DIFFERS),
        (order(S.CONFIRMED, refunded=5, refunding=3), Paid(2000, 1008, "USD"), None),
        (order(S.REFUNDED, refunded=1000), Paid(2000, 2000, "USD"), None),
        (order(S.CONFIRMED), Paid(1000, 0, "EUR"), Cause.CURRENCY_DIFFERS),
        (order(S.CONFIRMED), Paid(1000, 1, "USD"), Cause.REFUND_MISSING_HERE),
        (order(S.CONFIRMED, refunded=5), Paid(1000, 5, "USD"), None),
        (order(S.CONFIRMED, refunded=5), Paid(1000, 4, "USD"), Cause.REFUND_MISSING_THERE),
        (order(S.CONFIRMED, refunded=5, refunding=3), Paid(1000, 8, "USD"), None),
        (order(S.CONFIRMED, refunded=5, refunding=3), Paid(1000, 7, "USD"), Cause.REFUND_MISSING_HERE),
        (order(S.REFUNDED, refunded=1000), Paid(1000, 1000, "USD"), None),
        (order(S.REFUNDED, refunded=1000), Paid(1000, 0, "USD"), Cause.REFUND_MISSING_THERE),
        (order(S.EXPIRED), Paid(0, 0, "USD"), None),
        (order(S.EXPIRED), Paid(1000, 1000, "USD"), None),
        (order(S.EXPIRED), Paid(1000, 0, "USD"), Cause.CAPTURED_AFTER_END),
        (order(S.QUEUED), Paid(1000, 0, "USD"), Cause.CAPTURED_TOO_EARLY),
        (order(S.PAYMENT_UNKNOWN), Paid(1000, 0, "USD"), None),
        (order(S.PAYMENT_UNKNOWN), Paid(0, 0, "USD"), None),
        (order(S.PAYMENT_UNKNOWN), Paid(1, 0, "USD"), Cause.AMOUNT_DIFFERS),
        (order(S.PAYMENT_UNKNOWN), Paid(1, 1, "USD"), None),
    ],
)
def test_each_difference_has_its_cause(one, paid, cause):
    found = compare(one, paid)
    assert (found and found.cause) is cause


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        ([("USD", 1000, 0)], []),
        ([("USD", 1000, 0), ("JPY", 70, 70)], []),
        ([("JPY", 70, 70)], [(Cause.NOT_CAPTURED, "10.00", "0.00", "USD")]),
        ([("JPY", 70, 0)], [(Cause.CURRENCY_DIFFERS, "0", "70", "JPY")]),
        ([("USD", 1000, 0), ("JPY", 70, 30)], [(Cause.CURRENCY_DIFFERS, "0", "40", "JPY")]),
    ],
)
async def test_money_in_another_currency_counts_while_it_is_held(taken, found):
    one = order(S.CONFIRMED, order_id=IDS[5])
    settle = Settle(Rows([one]), Book([(str(IDS[5]), minor, back, currency) for currency, minor, back in taken]))
    differences = [(d.cause, d.expected, d.held, d.currency) async for d in settle(since=SINCE, now=NOW)]
    assert differences == found


async def test_foreign_money_that_was_given_back_is_no_difference():
    settle = Settle(Rows([]), Book([("foreign", 1000, 1000), ("other", 1000, 999)]))
    assert [d.order_id async for d in settle(since=SINCE, now=NOW)] == ["other"]


class Rows:
    def __init__(self, orders):
        self.orders = sorted(orders)

    async def page(self, after, limit):
        return [one for one in self.orders if one.order_id > after][: min(limit, 3)]


class Book(Provider):
    def __init__(self, entries):
        super().__init__()
        self.entries = entries

    def intents(self, *, since):
        from flashsale.domain.payment_errors import NotSupported

        raise NotSupported(provider="test", call="intents")

    async def ledger(self):
        for key, minor, refunded, *currency in self.entries:
            yield LedgerEntry(
                key=key, status="captured", amount_minor=minor, currency="".join(currency) or "USD",
                refunded_minor=refunded, captures=1, reference=None,
            )  # fmt: skip


IDS = [order_id_at(FIRST_MS + number * 1000, bytes([number + 2] * 10)) for number in range(-2, 12)]


@given(
    st.dictionaries(st.sampled_from(IDS), st.sampled_from([S.CONFIRMED, S.EXPIRED, S.PAYMENT_UNKNOWN, S.REFUNDED])),
    st.lists(st.tuples(st.sampled_from([*map(str, IDS), "foreign"]), st.sampled_from([1000, 1]), st.just(0))),
    st.sets(st.sampled_from(IDS)),
)
async def test_page_by_page_it_finds_what_a_comparison_of_everything_finds(statuses, entries, moving):
    orders = {
        str(order_id): order(
            status,
            order_id=order_id,
            refunded=1000 if status is S.REFUNDED else 0,
            moved_at=NOW + timedelta(seconds=1) if order_id in moving else SINCE,
        )
        for order_id, status in statuses.items()
    }
    settle = Settle(Rows(orders.values()), Book(entries))
    found = sorted([(one.order_id, one.cause) async for one in settle(since=SINCE, now=NOW)])
    taken = {}
    for key, minor, _ in entries:
        taken[key] = taken.get(key, 0) + minor
    first = str(UUID(int=FIRST_MS << 80))
    wanted = []
    for key in {*orders, *taken}:
        if key != "foreign" and key < first:
            continue
        if key not in orders:
            wanted.append((key, Cause.UNKNOWN_ORDER))
        elif UUID(key) not in moving:
            one = compare(orders[key], Paid(taken.get(key, 0), 0, "USD"))
            wanted += [(key, one.cause)] if one else []
    assert found == sorted(wanted)
