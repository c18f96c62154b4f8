"""A buy that names the price which the buyer saw is made at this price or not at all."""

import pytest

from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.domain.errors import InvalidInput, PriceChanged
from flashsale.domain.money import Money
from tests.conftest import add_buyers, add_product
from tests.support.accepting import acceptance
from tests.support.buying import buying
from tests.support.gates import ask, flushed

CHANGE = "UPDATE products SET price_minor = $2 WHERE product_id = $1"


def wanted(product, user, price, *, key=None):
    return ask(product, user, key=key)._replace(expected_price=price)


async def assert_kept(services):
    """The audit finds each key's fingerprint from the order alone."""
    truth = PostgresInvariants(services.database, timeout_s=60)
    kept = await truth.fingerprints()
    assert kept
    assert all(fingerprint == request.fingerprint() for request, fingerprint, *_ in kept)


async def sold(db):
    rows = await db.fetch("SELECT unit_price_minor FROM orders ORDER BY created_at")
    return [row["unit_price_minor"] for row in rows]


async def test_a_buy_is_made_at_the_expected_price_only(services, db):
    product = await add_product(services)
    one, other = await add_buyers(services, 2)
    accepted = await services.buy(wanted(product, one, "999.99", key="k"))
    assert str(accepted.unit_price) == "999.99"
    with pytest.raises(PriceChanged) as refused:
        await services.buy(wanted(product, other, "999.98"))
    assert (refused.value.price, refused.value.currency) == ("999.99", "USD")
    await db.execute(CHANGE, product.product_id, 89_999)
    # The same request again gets its order whatever the price is now, or is expected to be.
    for price in ("999.99", "899.99", None):
        assert await services.buy(wanted(product, one, price, key="k")) == accepted
    await assert_kept(services)
    assert await sold(db) == [99_999]
    await flushed(services, product, lambda found: (found.stock, found.leases) == (9, 0))


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_process_that_does_not_know_the_new_price_sells_nothing_at_it(services, db, key):
    """Control: without an expected price the same process sells at the new price."""
    product = await add_product(services)
    one, other = await add_buyers(services, 2)
    await services.catalog.refresh()
    await db.execute(CHANGE, product.product_id, 109_999)
    assert (await services.catalog.get(product.product_id)).price.minor == 99_999, "the process knows the old price"
    with pytest.raises(PriceChanged) as refused:
        await services.buy(wanted(product, one, "999.99", key=key))
    assert refused.value.price == "1099.99"
    assert await sold(db) == []
    await flushed(services, product, lambda found: (found.stock, found.leases) == (10, 0))
    await services.buy(wanted(product, other, None))
    assert await sold(db) == [109_999]


async def test_a_buyer_may_know_the_new_price_before_the_process_does(services, db):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    await services.catalog.refresh()
    await db.execute(CHANGE, product.product_id, 89_999)
    accepted = await services.buy(wanted(product, user, "899.99"))
    assert str(accepted.unit_price) == "899.99"


async def test_of_a_batch_each_proposal_has_its_own_price(services, db):
    product = await add_product(services)
    users = await add_buyers(services, 4)
    buy = buying(services, acceptance(services))
    prices = ["999.99", None, "999.990", "1000"]
    made = {}
    for user, price in zip(users, prices, strict=True):
        try:
            made[price] = str((await buy(wanted(product, user, price))).unit_price)
        except (InvalidInput, PriceChanged) as error:
            made[price] = error.code
    assert made == {"999.99": "999.99", None: "999.99", "999.990": "invalid_input", "1000": "price_changed"}


@pytest.mark.parametrize("price", ["1000.0", "", "-1", "1e3", "0", "9" * 21])
async def test_what_is_no_price_in_the_currency_is_refused_by_name(services, price):
    product = await add_product(services, price=Money(minor=1000, currency="JPY"))
    user = (await add_buyers(services, 1))[0]
    with pytest.raises(InvalidInput, match="expectedPrice") as refused:
        await services.buy(wanted(product, user, price))
    assert refused.value.field == "expectedPrice"
