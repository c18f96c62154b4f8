"""The books: every cent that moved is in exactly one day, whatever the zone, and nothing else is."""

import itertools
import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flashsale.bootstrap.api import open_services
from flashsale.domain.errors import InvalidInput
from flashsale.domain.money import Money
from tests.growth.reading import counting
from tests.support.refunding import Provider, paid_order, refunding, requesting

FIRST, LAST = date(2026, 3, 27), date(2026, 3, 31)
"""In Berlin the 29th has 23 hours."""
ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns"]


async def moved(db):
    """Read the ledger: (when, product, currency, taken, given back) of every payment and refund there is."""
    return await db.fetch(
        """
        SELECT a.finished_at AS at, o.product_id, o.currency, a.amount_minor AS taken, 0::bigint AS back
        FROM payment_attempts AS a INNER JOIN orders AS o USING (order_id) WHERE a.outcome = 'captured'
        UNION ALL
        SELECT r.finished_at, o.product_id, o.currency, 0, r.amount_minor
        FROM refunds AS r INNER JOIN orders AS o USING (order_id) WHERE r.state = 'succeeded'
        """
    )


async def test_books_are_the_ledger_by_day_in_every_zone(settings, db):
    async with open_services(settings) as services:
        for currency, number in itertools.product(["USD", "JPY"], range(6)):
            order_id, _ = await paid_order(services, price=Money(minor=1000 + number, currency=currency))
            if number < 4:
                amount = None if number % 2 else ("1.50" if currency == "USD" else "150")
                await requesting(services)(order_id, amount)
                await refunding(services, Provider())(order_id)
        await scatter(db)
        ledger = await moved(db)
        for zone in ZONES:
            at_home = ZoneInfo(zone)
            expected = Counter()
            for row in ledger:
                key = (row["at"].astimezone(at_home).date(), row["product_id"], row["currency"])
                expected[*key, "taken"] += row["taken"]
                expected[*key, "back"] += row["back"]
                expected[*key, "payments"] += row["taken"] > 0
                expected[*key, "refunds"] += row["back"] > 0
            found = await services.read_books(since=FIRST, until=LAST, zone=zone)
            assert [one.day for one in found] == sorted(one.day for one in found)
            told = Counter()
            for one in found:
                key = (one.day, one.product_id, one.revenue.currency)
                told[*key, "taken"] += one.revenue.minor
                told[*key, "back"] += one.refunded.minor
                told[*key, "payments"] += one.payments
                told[*key, "refunds"] += one.refunds
                assert one.net.minor == one.revenue.minor - one.refunded.minor
            assert told == expected, zone
            one_day = await services.read_books(since=None, until=FIRST + timedelta(days=2), zone=zone)
            assert one_day == [one for one in found if one.day == FIRST + timedelta(days=2)]


async def scatter(db):
    """Put the payments and refunds at instants about the borders of days."""
    chosen = random.Random(7)
    for table, key in (("payment_attempts", "outcome = 'captured'"), ("refunds", "state = 'succeeded'")):
        for row in await db.fetch(f"SELECT order_id FROM {table} WHERE {key}"):
            at = datetime(2026, 3, chosen.choice([28, 29, 30]), tzinfo=UTC) + chosen.choice(
                [timedelta(0), timedelta(hours=-1), timedelta(hours=-2), timedelta(microseconds=-1), timedelta(hours=9)]
            )
            await db.execute(f"UPDATE {table} SET finished_at = $2 WHERE order_id = $1 AND {key}", row["order_id"], at)


async def test_a_day_is_read_by_an_index(settings, db):
    """Of 5,000 payments in 209 days, each statement looks at those of its day."""
    async with open_services(settings) as services:
        await paid_order(services)
        await db.execute(
            "INSERT INTO payment_attempts (order_id, attempt, gateway_key, amount_minor, currency, outcome, reference,"
            " begun_at, finished_at)"
            " SELECT order_id, 1 + n, order_id::text, 1, 'USD', 'captured', 'r' || n, now(), now() - n * interval '1 h'"
            " FROM orders, generate_series(1, 5000) AS n"
        )
        await db.execute("VACUUM ANALYZE payment_attempts")
        today = datetime.now(tz=UTC).date()
        with counting() as reads:
            assert len(await services.read_books(since=today - timedelta(days=9), until=today, zone="UTC")) == 10
        # 24 payments, each with its order and product.
        assert reads["books.day"].rows < 5 * 24


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"since": LAST, "until": FIRST}, "until"),
        ({"since": FIRST - timedelta(days=366), "until": FIRST}, "since"),
        ({"since": date(1969, 1, 1), "until": date(1969, 1, 1)}, "since"),
        ({"since": date(9999, 12, 31), "until": date(9999, 12, 31)}, "since"),
        ({"since": FIRST, "until": FIRST, "zone": "Mars/Olympus"}, "timeZone"),
        ({"since": FIRST, "until": FIRST, "zone": "../../etc/passwd"}, "timeZone"),
        ({"since": FIRST, "until": FIRST, "zone": "Europe"}, "timeZone"),
    ],
)
async def test_what_cannot_be_read_is_refused(services, asked, field):
    with pytest.raises(InvalidInput) as refused:
        await services.read_books(**{"zone": "UTC", **asked})
    assert refused.value.field == field
