"""What the provider keeps is read by the settlement, written once, and in the books."""

from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from flashsale.adapters.payments.stripe import StripeGateway
from flashsale.adapters.postgres.settlement import PostgresFees, PostgresSettledOrders
from flashsale.domain.money import Money
from flashsale.domain.payments import ChargeOutcome, Intent, IntentState
from flashsale.settings.stripe import StripeSettings
from flashsale.usecases.settle import Cause, Settle
from tests.conftest import add_buyers, add_product
from tests.support.accepting import accept_one
from tests.support.charging import Gateway, charging, waiting_order
from tests.support.gateway import SECRET, running
from tests.support.refunding import Provider, paid_order, refunding, requesting

SINCE = datetime(2020, 1, 1, tzinfo=UTC)


async def settle(services, gateway, *, keep=True):
    fees = PostgresFees(services.database) if keep else None
    run = Settle(PostgresSettledOrders(services.database), gateway, fees)
    return [one async for one in run(since=SINCE, now=datetime.now(UTC))]


async def books(services):
    """Return revenue, fees and net of each product and currency of today."""
    found = await services.read_books(since=None, until=None, zone="UTC")
    return [(str(one.revenue), None if one.fees is None else str(one.fees), str(one.net)) for one in found]


@pytest.mark.parametrize(
    ("price", "rate", "fee", "net"),
    [
        (Money(minor=99_999, currency="USD"), 0.029, "29.00", "970.99"),
        (Money(minor=1_000, currency="JPY"), 0.036, "36", "964"),
        (Money(minor=5_120, currency="KWD"), 0.1, "0.512", "4.608"),
        (Money(minor=99_999, currency="USD"), 0.0, "0.00", "999.99"),
    ],
)
async def test_fees_are_read_written_and_in_the_books(services, db, price, rate, fee, net):
    async with running(rate_limit_per_s=0, account_limit_per_s=0, fee_rate=rate) as service:
        values = {"secret_key": SecretStr(SECRET), "base_url": service.url, "payment_method": "pm_card_visa"}
        async with StripeGateway(StripeSettings.model_construct(**values), connections_max=5) as gateway:
            order_id, _ = await waiting_order(services, price=price)
            await charging(services, gateway)(order_id)
            revenue = str(price)
            assert await books(services) == [(revenue, None, revenue)]
            # The audit compares the same lists and writes nothing.
            assert await settle(services, gateway, keep=False) == []
            assert await books(services) == [(revenue, None, revenue)]
            for _ in range(2):
                assert await settle(services, gateway) == []
                assert await books(services) == [(revenue, fee, net)]
            noted = await db.fetchval("SELECT noted_at FROM payment_fees")
            await settle(services, gateway)
            assert await db.fetchval("SELECT noted_at FROM payment_fees") == noted, "nothing is written again"
            # The provider keeps its fee of a payment that is given back.
            await requesting(services)(order_id)
            await refunding(services, gateway)(order_id)
            await settle(services, gateway)
            assert await books(services) == [
                (revenue, fee, str(Money(minor=-minor(fee, price), currency=price.currency)))
            ]


def minor(amount, price):
    return int(amount.replace(".", "")) if price.exponent else int(amount)


async def test_the_books_have_no_fee_unless_each_charge_has_one_in_its_currency(services):
    product = await add_product(services)
    one, other = [await accept_one(services, product, user) for user in await add_buyers(services, 2)]
    await services.order_rows.process(sorted([one, other]), payment_due_s=30)
    for order_id in (one, other):
        await charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id)
    fees = PostgresFees(services.database)
    await fees.keep([(one, Money(minor=290, currency="USD"))])
    assert await books(services) == [("1999.98", None, "1999.98")]
    await fees.keep([(other, Money(minor=250, currency="EUR"))])
    assert await books(services) == [("1999.98", None, "1999.98")]
    await fees.keep([(other, Money(minor=310, currency="USD"))])
    assert await books(services) == [("1999.98", "6.00", "1993.98")]


class Listing(Provider):
    """A provider whose list of captured payments a test writes: order, amount and fee."""

    def __init__(self, *payments):
        super().__init__()
        self.payments = payments

    async def intents(self, *, since):
        for number, (order_id, amount, fee) in enumerate(self.payments):
            yield Intent(
                reference=f"pi_{number}", order_id=order_id, state=IntentState.CAPTURED, amount=amount, refunded_minor=0,
                disputed=False, client_secret=None, page_url=None, decline_code=None, created_at=SINCE, fee=fee,
            )  # fmt: skip


async def test_whatever_becomes_of_the_fees_the_comparison_is_whole(services, db):
    price = Money(minor=99_999, currency="USD")
    orders = [(await paid_order(services, price=price))[0] for _ in range(3)]
    euros = Money(minor=100, currency="EUR")
    gateway = Listing(
        (orders[0], price, Money(minor=290, currency="USD")),
        (orders[0], euros, Money(minor=9, currency="EUR")),
        (orders[1], price, Money(minor=-1, currency="USD")),
        (orders[2], price, Money(minor=310, currency="USD")),
    )
    wanted = [(str(orders[0]), Cause.CURRENCY_DIFFERS)]
    kept = "SELECT order_id, fee_minor FROM payment_fees"
    assert [(one.order_id, one.cause) for one in await settle(services, gateway)] == wanted
    assert [tuple(row) for row in await db.fetch(kept)] == [(orders[2], 310)]
    await db.execute("DELETE FROM payment_fees; ALTER TABLE payment_fees ADD CHECK (fee_minor = 0)")
    with capture_logs() as lines:
        assert [(one.order_id, one.cause) for one in await settle(services, gateway)] == wanted
    assert [line["event"] for line in lines] == ["settlement.fees_not_kept"]


async def test_a_day_without_charges_has_no_fees_that_are_not_known(services, db):
    order_id, _ = await paid_order(services)
    move = "UPDATE payment_attempts SET finished_at = finished_at {} interval '2 days'"
    await db.execute(move.format("-"))
    await requesting(services)(order_id)
    await refunding(services, Provider())(order_id)
    assert await books(services) == [("0.00", "0.00", "-999.99")]
    await db.execute(move.format("+"))
