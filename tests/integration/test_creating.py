"""A product is created once, and its creator learns so, whatever fails around its COMMIT."""

import time
from contextlib import asynccontextmanager

import pytest

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.products import PostgresProducts
from flashsale.domain.errors import OutcomeUnknown, Unavailable
from flashsale.usecases.tend_units import TendUnits
from tests.conftest import add_buyers, add_product
from tests.support.gates import ask

DIES = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON products DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die();
"""


class Losing(Database):
    """Loses the connection after a COMMIT; with `stays_away`, no other one is to be had."""

    losses = 1
    stays_away = False

    @asynccontextmanager
    async def connection(self, **more):
        if self.stays_away and not self.losses:
            raise Unavailable
        async with super().connection(**more) as connection:
            yield connection
        if self.losses:
            self.losses -= 1
            raise ConnectionResetError


@asynccontextmanager
async def losing(services, *, stays_away):
    database = Losing(services.settings.postgres, name="losing")
    database.stays_away = stays_away
    await database.open()
    services.administer._products = PostgresProducts(database)
    yield
    services.administer._products = services.products
    await database.close()


async def test_a_product_whose_commit_was_lost_is_found(services, db):
    async with losing(services, stays_away=False):
        product = await add_product(services)
    assert await db.fetchval("SELECT array_agg(product_id) FROM products") == [product.product_id]


async def test_a_product_that_was_not_created_may_be_created_again(services, db):
    await db.execute(DIES)
    with pytest.raises(Unavailable, match="Nothing was created"):
        await add_product(services)
    await db.execute("DROP TRIGGER dies ON products")
    await add_product(services)
    assert await db.fetchval("SELECT count(*) FROM products") == 1


async def test_a_creator_is_told_to_look_if_nobody_can_tell(services, db):
    async with losing(services, stays_away=True):
        with pytest.raises(OutcomeUnknown, match="look at the list"):
            await add_product(services)
    assert await db.fetchval("SELECT count(*) FROM products") == 1


@pytest.mark.parametrize("failing", ["load_gate", "catalog"])
async def test_what_fails_after_a_product_was_created_is_made_up_for(services, db, failing):
    async def fails(*_, **__):
        raise Unavailable

    if failing == "load_gate":
        services.load_gate._load, load = fails, services.load_gate._load
    else:
        services.catalog.refresh, refresh = fails, services.catalog.refresh
    product = await add_product(services, allotment=3)
    assert (product.allotment, await db.fetchval("SELECT count(*) FROM products")) == (3, 1)
    if failing == "load_gate":
        services.load_gate._load = load
    else:
        services.catalog.refresh = refresh
    await services.catalog.refresh()
    [user] = await add_buyers(services, 1)
    assert (await services.buy(ask(product, user))).product_id == product.product_id


async def test_rows_of_units_are_made_at_half_of_the_time_at_most():
    class Slow:
        def __init__(self):
            self.left, self.spans = 5, []

        async def open_pools(self, *, ahead, limit):
            return [1, 2] if self.left > 0 else []

        async def tend_units(self, product_id, *, most):
            began_s = time.monotonic()
            time.sleep(0.01)  # noqa: ASYNC251 - as long as a statement takes
            self.left -= 1
            self.spans.append((began_s, time.monotonic()))
            return most

    products = Slow()
    await TendUnits(products, chunk=10, ahead=10)()
    pairs = zip(products.spans, products.spans[1:], strict=False)
    assert all(after[0] - before[1] >= 0.9 * (before[1] - before[0]) for before, after in pairs)
    assert len(products.spans) == 6
