"""Rows of units are a pool: made ahead of the claims, deleted after a lowering, and never more sold than there are."""

import asyncio
from collections import Counter

import asyncpg
import pytest

from flashsale.adapters.postgres.queries import sql_root
from flashsale.domain.errors import AllotmentTooSmall, InvalidInput, ProductNotFound, StaleChange, Unavailable
from flashsale.domain.products import ALLOTMENT_MAX, ProductChange
from flashsale.usecases.tend_units import TendUnits
from tests.conftest import add_buyers, add_product, alembic, assert_invariants, execute
from tests.support.accepting import accept_one, wait_for_lock

CREATE = "SELECT create_product_v2('Phone', 100, 'USD', $1, 'automatic', 300, NULL, NULL, NULL)"
FREE_ROWS = "SELECT count(*) FROM units WHERE product_id = $1 AND order_id IS NULL"
UNMADE = "SELECT unmade FROM unit_pools WHERE product_id = $1"


async def sell(connection, product_id, wanted):
    """Claim as an accept does; returns the units that were sold."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock_shared(7000, $1)", product_id)
        taken = await connection.fetchval("SELECT claim_units_v1($1, $2)", product_id, wanted)
        await connection.execute(
            "UPDATE units SET order_id = gen_random_uuid() WHERE product_id = $1 AND unit_no = ANY($2)",
            product_id,
            taken,
        )
        if taken:
            await connection.execute(
                "SELECT change_stock_v1(ARRAY[$1::integer], ARRAY[$2::integer], ARRAY[$3::integer])",
                product_id,
                -len(taken),
                taken[-1],
            )
    return taken


async def replace_function(db, name, *changes):
    """Install a function with some of its text changed: the control of a guard."""
    text = (sql_root() / f"functions/{name}.sql").read_text().replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    await db.execute(text)


async def race(db, blocker, runners):
    """Let all start once each waits for a lock of the blocker's transaction; returns their results or errors."""
    racing = [asyncio.create_task(run()) for run in runners]
    try:
        await wait_for_lock(db, len(racing))
        await blocker.rollback()
        return await asyncio.gather(*racing, return_exceptions=True)
    finally:
        for task in racing:
            task.cancel()
        await asyncio.gather(*racing, return_exceptions=True)


@pytest.fixture
async def pool(postgres_url, db):
    """Connections that sell units to orders that do not exist."""
    await db.execute("ALTER TABLE units DROP CONSTRAINT units_order_id_fkey")
    async with asyncpg.create_pool(postgres_url, min_size=12, max_size=12) as pool:
        yield pool


async def test_ten_million_units_are_on_sale_at_once_and_made_as_they_are_sold(services, jobs, db):
    product = await add_product(services, allotment=ALLOTMENT_MAX)
    chunk, ahead = services.settings.units.chunk, services.settings.units.ahead
    assert await db.fetchval(FREE_ROWS, product.product_id) == chunk
    assert product.unmade == ALLOTMENT_MAX - chunk
    assert services.catalog.stock(product.product_id).free == ALLOTMENT_MAX
    state = await services.gate.state(product.product_id, product.epoch)
    assert (state.loaded, state.stock) == (True, ALLOTMENT_MAX)
    await accept_one(services, product, (await add_buyers(services, 1))[0])
    await jobs.tend_units()
    made = await db.fetchval("SELECT count(*) FROM units")
    assert ahead < made <= ahead + 1 + chunk
    await jobs.tend_units()
    assert await db.fetchval("SELECT count(*) FROM units") == made, "only as many as are wanted soon"


@pytest.mark.parametrize("wanted", [1, 7, 100])
async def test_every_unit_is_sold_whether_it_had_a_row_or_not(db, pool, wanted):
    product_id = await db.fetchval(CREATE, 250)
    await db.fetchval("SELECT tend_units_v1($1, 50)", product_id)
    sold = []
    while taken := await sell(db, product_id, wanted):
        sold += taken
    assert sorted(sold) == list(range(1, 251))
    assert await db.fetchval("SELECT free FROM product_live") == await db.fetchval(UNMADE, product_id) == 0


async def test_units_that_came_back_are_sold_once_no_more_can_be_made(db, pool):
    product_id = await db.fetchval(CREATE, 2500)
    first = await sell(db, product_id, 10)
    await db.execute("UPDATE units SET order_id = NULL WHERE unit_no = ANY($1)", first)
    await db.execute("SELECT change_stock_v1(ARRAY[$1::integer], ARRAY[10])", product_id)
    sold = []
    while taken := await sell(db, product_id, 100):
        sold += taken
    assert sorted(sold) == list(range(1, 2501))
    assert sold[-10:] == first, "looking for them costs a walk over all that was sold"


LOCK = "FOR NO KEY UPDATE"
MEET = "; PERFORM pg_advisory_xact_lock_shared(1)"
"""What lets unguarded transactions meet after each has read how many units are unmade."""


@pytest.mark.parametrize("guarded", [True, False])
async def test_claims_and_the_maker_race_on_an_empty_pool(db, pool, guarded):
    product_id = await db.fetchval(CREATE, 60)
    blocker = db.transaction()
    await blocker.start()
    if guarded:
        await db.execute("SELECT 1 FROM unit_pools FOR UPDATE")
    else:
        await db.execute("SELECT pg_advisory_xact_lock(1)")
        async with pool.acquire() as other:
            pool_row = "FROM unit_pools AS o WHERE o.product_id = _product_id"
            await replace_function(other, "tend_units_v1", (f"{pool_row} {LOCK}", f"{pool_row}{MEET}"))
            await replace_function(other, "claim_units_v1", (f"{pool_row} {LOCK}", pool_row))

    async def tend():
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT tend_units_v1($1, 20)", product_id)
        return []

    async def claim():
        async with pool.acquire() as connection:
            return await sell(connection, product_id, 7)

    results = await race(db, blocker, [tend, *[claim] * 10])
    failed = [result for result in results if isinstance(result, Exception)]
    sold = Counter(unit for result in results if not isinstance(result, Exception) for unit in result)
    if guarded:
        assert not failed
        assert sorted(sold.elements()) == list(range(1, 61))
        assert await db.fetchval("SELECT count(*) FROM units") == 60
        assert await db.fetchval(UNMADE, product_id) == 0
    else:
        assert failed, "they made the same units"


@pytest.mark.parametrize("guarded", [True, False])
async def test_rows_that_are_too_many_are_never_sold(db, pool, guarded):
    product_id = await db.fetchval(CREATE, 60)
    await db.fetchval("SELECT tend_units_v1($1, 60)", product_id)
    await db.execute("SELECT set_allotment_v2($1, 5)", product_id)
    assert (await db.fetchval(FREE_ROWS, product_id), await db.fetchval(UNMADE, product_id)) == (60, -55)
    blocker = db.transaction()
    await blocker.start()
    if guarded:
        await db.execute("SELECT 1 FROM unit_pools FOR UPDATE")
    else:
        await db.execute("SELECT pg_advisory_xact_lock(1)")
        async with pool.acquire() as other:
            await other.execute("ALTER TABLE product_live DROP CONSTRAINT product_live_free_check")
            await replace_function(
                other,
                "claim_units_v1",
                (f"WHERE o.product_id = _product_id {LOCK};\n        SELECT l.free", f"{MEET};\n        SELECT l.free"),
            )

    async def tend():
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT tend_units_v1($1, 20)", product_id)
        return []

    async def claim():
        async with pool.acquire() as connection:
            return await sell(connection, product_id, 2)

    results = await race(db, blocker, [*[claim] * 6, *([tend] if guarded else []), *[claim] * 4])
    # Without the guard, a claim may also read that fewer than no units are left, which Postgres refuses.
    taken = [units for units in results if guarded or not isinstance(units, asyncpg.PostgresError)]
    sold = Counter(unit for units in taken for unit in units)
    assert set(sold.values()) == {1}
    if not guarded:
        assert sum(sold.values()) > 5, "row locks alone sell what is too many"
        return
    assert sum(sold.values()) == 5
    while await db.fetchval("SELECT tend_units_v1($1, 20)", product_id):
        pass
    assert await db.fetchval("SELECT count(*) FROM units") == 5
    assert await db.fetchval(UNMADE, product_id) == 0


async def test_an_allotment_is_lowered_at_once_and_its_rows_go_in_chunks(services, db):
    product = await add_product(services, allotment=10_000_000)
    for user in await add_buyers(services, 3):
        await accept_one(services, product, user)
    with pytest.raises(AllotmentTooSmall):
        await services.administer.set_allotment(product.product_id, 2)
    tend = TendUnits(services.products, chunk=1000, ahead=20_000)
    await tend()
    made = await db.fetchval("SELECT count(*) FROM units")
    lowered = await services.products.set_allotment(product.product_id, 5)
    assert lowered == ("changed", 3)
    assert await db.fetchval("SELECT free FROM product_live") == 2
    progress = [await db.fetchval(UNMADE, product.product_id)]
    assert progress == [5 - made]
    for _ in range(2):
        await services.products.tend_units(product.product_id, most=1000)
        progress.append(await db.fetchval(UNMADE, product.product_id))
        await assert_invariants(services.database)
    assert progress == [5 - made, 1005 - made, 2005 - made]
    assert (await services.administer.set_allotment(product.product_id, 5)).allotment == 5
    assert await services.products.set_allotment(product.product_id, 5) == ("unchanged", 3)
    await tend()
    assert await db.fetchval("SELECT count(*) FROM units") == 5
    assert await db.fetchval(UNMADE, product.product_id) == 0
    await services.products.set_allotment(product.product_id, 7)
    assert await db.fetchval(UNMADE, product.product_id) == 2


async def test_a_chunk_of_rows_is_deleted_without_a_look_at_the_others(services, db):
    chunk, ahead = services.settings.units.chunk, services.settings.units.ahead
    await add_product(services, allotment=chunk)
    # Statistics that know nothing of the next product: Postgres takes its rows for a few.
    await db.execute("ANALYZE")
    product = await add_product(services, allotment=ahead)
    await services.products.tend_units(product.product_id, most=ahead)
    await services.products.set_allotment(product.product_id, 5)
    # Each row compared with each of the chunk takes longer than a statement may.
    assert await services.products.tend_units(product.product_id, most=chunk) == -chunk


async def test_a_raise_takes_rows_back_that_were_about_to_be_deleted(services, db):
    product = await add_product(services, allotment=100)
    for allotment, unmade in ((10, -90), (60, -40), (130, 30)):
        await services.products.set_allotment(product.product_id, allotment)
        assert await db.fetchval(UNMADE, product.product_id) == unmade
        await assert_invariants(services.database)


async def test_products_are_tended_in_turn_and_one_that_fails_stops_none(services, db):
    products = [await add_product(services, allotment=20_000) for _ in range(3)]
    broken, *sound = [product.product_id for product in products]

    class Failing:
        async def open_pools(self, **arguments):
            return await services.products.open_pools(**arguments)

        async def tend_units(self, product_id, *, most):
            if product_id == broken:
                raise Unavailable
            return await services.products.tend_units(product_id, most=most)

    await TendUnits(Failing(), chunk=1000, ahead=10_000)()
    for product_id in sound:
        assert await db.fetchval(FREE_ROWS, product_id) == 10_000
    assert await db.fetchval(FREE_ROWS, broken) == 5000
    assert await services.products.open_pools(ahead=10_000, limit=9) == [broken], "products at rest cost nothing"


async def test_a_database_of_the_first_revision_is_upgraded_with_its_orders_and_back(empty_url):
    assert alembic(empty_url, "upgrade", "0001").returncode == 0
    await execute(
        empty_url,
        "SELECT create_product_v1('Phone', 100, 'USD', 20, 'automatic', 300, NULL, NULL, NULL)",
        "UPDATE units SET order_id = NULL",
        "UPDATE product_live SET claim_hand = 4",
    )
    assert alembic(empty_url, "upgrade", "head").returncode == 0
    db = await asyncpg.connect(empty_url)
    try:
        await db.execute("ALTER TABLE units DROP CONSTRAINT units_order_id_fkey")
        assert len(await sell(db, 1, 18)) == 18
        # Processes of the old code still make products and set allotments, until they are replaced.
        old = await db.fetchval("SELECT create_product_v1('Old', 100, 'USD', 10, 'automatic', 300, NULL, NULL, NULL)")
        assert len(await sell(db, old, 8)) == 8
        assert await db.fetchval("SELECT result FROM set_allotment_v1($1, 30)", old) == "changed"
        assert await db.fetchval("SELECT result FROM set_allotment_v2($1, 5000)", old) == "changed"
        assert await db.fetchval("SELECT result FROM set_allotment_v1($1, 5010)", old) == "changed"
        assert len(await sell(db, old, 3000)) == 3000
        assert await db.fetchval(UNMADE, old)
    finally:
        await db.close()
    done = alembic(empty_url, "downgrade", "0001")
    assert done.returncode == 0, done.stderr
    db = await asyncpg.connect(empty_url)
    try:
        rows = await db.fetch(
            "SELECT allotment, free, (SELECT count(*) FROM units AS u WHERE u.product_id = p.product_id) AS units,"
            " (SELECT count(*) FROM units AS u WHERE u.product_id = p.product_id AND u.order_id IS NULL) AS free_rows"
            " FROM products AS p INNER JOIN product_live USING (product_id) ORDER BY product_id"
        )
        assert [tuple(row) for row in rows] == [(20, 2, 20, 2), (5010, 2002, 5010, 2002)]
    finally:
        await db.close()


async def test_two_administrators_who_add_units_at_once_add_both(services, db):
    product_id = (await add_product(services, allotment=100)).product_id
    lock = db.transaction()
    await lock.start()
    await db.execute("SELECT pg_advisory_xact_lock(7000, $1)", product_id)
    adding = [asyncio.create_task(services.products.change_allotment(product_id, 50)) for _ in range(2)]
    await wait_for_lock(db, 2)
    await lock.rollback()
    assert await asyncio.gather(*adding) == [("changed", 0)] * 2
    assert (await services.administer.change_allotment(product_id, -20)).allotment == 180
    with pytest.raises(AllotmentTooSmall):
        await services.administer.change_allotment(product_id, -181)
    with pytest.raises(InvalidInput):
        await services.administer.change_allotment(product_id, ALLOTMENT_MAX)
    with pytest.raises(ProductNotFound):
        await services.administer.change_allotment(product_id + 1, 1)


async def test_a_change_of_what_somebody_else_has_changed_is_refused(services):
    product = await add_product(services)
    first = ProductChange(fields={"name": "First"})
    changed = await services.administer.change(product.product_id, first, unless_changed_since=[product.updated_at])
    with pytest.raises(StaleChange):
        await services.administer.change(product.product_id, first, unless_changed_since=[product.updated_at])
    assert (
        await services.administer.change(product.product_id, first, unless_changed_since=[changed.updated_at])
    ).name == "First"
