"""A product moves to another cell: its units are for sale in at most one of the two, wherever the move is cut off."""

import asyncio
import uuid
from contextlib import asynccontextmanager, nullcontext, suppress
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from flashsale.adapters.postgres import cells
from flashsale.adapters.postgres.moves import PostgresMovingCell, open_cell, read_moves
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.bootstrap.api import open_services
from flashsale.domain.cells import first_product, last_product
from flashsale.domain.errors import NotReady, ProductArchived, ProductNotFound, ProductOpen, SaleMoved, SalePaused
from flashsale.domain.moves import contradictions, move_of
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.products import PAUSED, PaymentMode, ProductChange
from flashsale.domain.requests import BuyRequest
from flashsale.domain.trail import Author
from flashsale.usecases.move_product import WHY_NOT, move_product
from tests.conftest import (
    TEMPLATE,
    add_buyers,
    add_product,
    alembic,
    assert_invariants,
    execute,
    make_settings,
    with_database,
)
from tests.support.charging import Gateway, charging
from tests.support.refunding import requesting

BY = Author(user_id=None, action="cells move", origin="ada@desk")
UNITS = 5
OTHER = "create_product_v6('Other', 100, 'USD', 1, 'automatic', 600, NULL, 'account', 0, false, NULL, NULL)"

FOR_SALE = """
    SELECT coalesce(sum(l.free), 0) FROM products AS p INNER JOIN product_live AS l ON p.product_id = l.product_id
    WHERE p.name = $1 AND p.archived_at IS NULL
"""


@asynccontextmanager
async def database_of_cell_1(postgres):
    """Make one that is as it was before anything came."""
    name = f"t_{uuid.uuid4().hex}"
    await execute(postgres.url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    url = with_database(postgres.url, name)
    await cells.begin(url, 1)
    yield url
    await execute(postgres.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def other_url(postgres):
    """The database of cell 1."""
    async with database_of_cell_1(postgres) as url:
        yield url


@pytest.fixture
async def other(other_url, valkey, services):
    """Everything that an API process of cell 1 has; the gate of both is one server here, and the products differ."""
    settings = make_settings(other_url, valkey.url, cell={"number": 1, "count": 2})
    async with open_services(settings, name="other") as opened:
        yield opened
        await assert_invariants(opened.database)


async def move(urls, product_id, **more):
    """Run a move as the command does."""
    async with open_cell(urls[0], "cell-0.env", BY) as old, open_cell(urls[1], "cell-1.env", BY) as new:
        return await move_product(old, new, product_id, **more)


async def for_sale(urls, name):
    """Count the units of a name that somebody could buy in each cell, were they not paused."""
    return tuple([await _fetch(url, FOR_SALE, name) for url in urls])


async def _fetch(url, statement, *values):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement, *values)
    finally:
        await connection.close()


async def paused(services, **more):
    product = await add_product(services, allotment=UNITS, **{"name": uuid.uuid4().hex, **more})
    await services.administer.change(product.product_id, PAUSED)
    return product


async def sell(services, product, count, *, pay=True, users=()):
    """Sell units to buyers of their own; returns their orders."""
    orders = []
    for user in users or await add_buyers(services, count):
        request = BuyRequest(user_id=user, product_id=product.product_id, quantity=1, key="a")
        orders.append((await services.buy(request)).order_id)
    await services.order_rows.process(orders, payment_due_s=30)
    if pay:
        for order_id in orders:
            gateway = Gateway()
            gateway.outcomes = [ChargeOutcome.CAPTURED]
            await charging(services, gateway)(order_id)
    return orders


async def test_a_moved_product_is_another_one_with_its_free_units_and_terms(services, other, postgres_url, other_url):
    urls = postgres_url, other_url
    product = await add_product(
        services, name="Phone", allotment=UNITS, payment_mode=PaymentMode.BY_BUYER, payment_window_s=77, cooldown_s=5
    )
    [order_id] = await sell(services, product, 1, pay=False)
    await services.order_rows.end([order_id], OrderStatus.CANCELLED)
    automatic = await add_product(services, name="Case", allotment=UNITS, limit_per_buyer=2)
    [paid] = await sell(services, automatic, 1)
    for one in (product, automatic):
        await services.administer.change(one.product_id, PAUSED)
    assert await move(urls, product.product_id) == (UNITS, first_product(1) + 1)
    await services.catalog.refresh()
    gone = await services.catalog.get(product.product_id)
    assert (gone.moved_to, gone.archived_at is not None, gone.allotment) == (first_product(1) + 1, True, 0)
    await other.catalog.refresh()
    new = await other.catalog.get(gone.moved_to)
    assert (new.name, new.price, new.allotment, new.paused) == ("Phone", product.price, UNITS, True)
    assert (new.payment_mode, new.payment_window_s, new.cooldown_s) == (PaymentMode.BY_BUYER, 77, 5)
    # Who has bought may buy again there, so somebody has to say that this is right.
    with pytest.raises(ProductOpen, match="--limits-anew"):
        await move(urls, automatic.product_id)
    units, became = await move(urls, automatic.product_id, limits_anew=True)
    assert units == UNITS - 1
    await services.catalog.refresh()
    assert (await services.catalog.get(automatic.product_id)).allotment == 1
    assert (await services.order_rows.get_many([paid]))[paid].status is OrderStatus.CONFIRMED
    # The units are sold in the other cell.
    await other.administer.change(became, ProductChange(fields={"paused": False}))
    await other.catalog.refresh()
    buyers = [uuid.uuid4() for _ in range(units)]
    for buyer in buyers:
        await execute(
            other_url, f"INSERT INTO users (user_id, name, email) VALUES ('{buyer}', 'A', '{buyer}@example.com')"
        )
    await sell(other, await other.catalog.get(became), units, users=buyers)
    assert await read_moves({"0": urls[0], "1": urls[1]}) != ([], [], {0, 1})
    assert contradictions(*await read_moves({"0": urls[0], "1": urls[1]})) == []
    trail = "SELECT count(*) FROM admin_trail WHERE action = 'cells move' AND origin = 'ada@desk' AND object = $1"
    assert await _fetch(urls[0], trail, f"product/{automatic.product_id}") > 1
    assert await _fetch(urls[1], trail, f"product/{became}") > 0


async def test_a_buy_of_a_moved_product_is_told_where_the_sale_goes_on(services, other, postgres_url, other_url):
    product = await paused(services)
    [user] = await add_buyers(services, 1)
    request = BuyRequest(user_id=user, product_id=product.product_id, quantity=1, key="a")
    _, became = await move((postgres_url, other_url), product.product_id)
    # This process has heard of the pause and not of the move.
    with pytest.raises(SalePaused):
        await services.buy(request)
    await services.catalog.refresh()
    with pytest.raises(SaleMoved) as refused:
        await services.buy(request)
    assert refused.value.moved_to == became
    with pytest.raises(asyncpg.CheckViolationError):
        await execute(postgres_url, "UPDATE products SET moved_to = NULL")
    with pytest.raises(ProductArchived):
        await services.administer.change(product.product_id, ProductChange(fields={"paused": False}))


async def test_a_product_whose_sale_has_not_begun_moves_and_begins_there(services, db, other, postgres_url, other_url):
    product = await add_product(services, allotment=UNITS)
    await db.execute("UPDATE products SET starts_at = clock_timestamp() + interval '1 day'")
    starts_at = await db.fetchval("SELECT starts_at FROM products")
    _, became = await move((postgres_url, other_url), product.product_id)
    await other.catalog.refresh()
    new = await other.catalog.get(became)
    assert (new.paused, new.starts_at) == (False, starts_at)


@pytest.mark.parametrize("reason", [*WHY_NOT, "unknown", "wrong cell"])
async def test_what_cannot_move_is_told_why_and_nothing_changes(services, db, other, postgres_url, other_url, reason):
    product = await add_product(
        services,
        allotment=2,
        limit_per_buyer=1,
        payment_mode=PaymentMode.BY_BUYER if reason == "orders" else PaymentMode.AUTOMATIC,
    )
    product_id = product.product_id
    if reason in {"orders", "refunds", "limits", "none"}:
        orders = await sell(services, product, 2 if reason == "none" else 1, pay=reason != "orders")
    if reason == "refunds":
        await requesting(services)(orders[0], "1.00")
    if reason != "on_sale":
        await services.administer.change(product_id, PAUSED)
    if reason == "archived":
        await services.administer.archive(product_id)
    tables = ("products", "product_live", "unit_pools", "product_departures", "product_terms", "admin_trail")
    before = [await db.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
    errors = {"unknown": ProductNotFound, "wrong cell": NotReady}
    error, told = errors.get(reason, ProductOpen), WHY_NOT.get(reason)
    urls = (postgres_url, other_url)
    if reason == "unknown":
        product_id, told = 999, "no product"
    elif reason == "wrong cell":
        urls, told = urls[::-1], "is one of cell 0, and --from is cell 1"
    with pytest.raises(error, match=told):
        await move(urls, product_id)
    assert before == [await db.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
    assert await _fetch(other_url, "SELECT count(*) FROM products") == 0


async def test_a_product_that_the_other_cell_refuses_does_not_leave(services, db, postgres_url, other_url):
    product = await paused(services)
    full = f"SELECT setval(pg_get_serial_sequence('products', 'product_id'), {last_product(1)})"
    await execute(other_url, full)
    with pytest.raises(NotReady, match="cell-1"):
        await move((postgres_url, other_url), product.product_id)
    assert await for_sale((postgres_url, other_url), product.name) == (UNITS, 0)


async def test_the_cell_that_refuses_is_named(services, db, postgres_url, other_url):
    product = await paused(services)
    urls = {"cell-0.env": postgres_url, "cell-1.env": other_url}
    await db.execute("ALTER FUNCTION leave_cell_v1 RENAME TO leave_cell_away")
    with pytest.raises(NotReady, match=r"at cell-0\.env: function leave_cell_v1"):
        await move((postgres_url, other_url), product.product_id)
    await db.execute("ALTER TABLE product_arrivals RENAME TO arrivals_away")
    with pytest.raises(NotReady, match=r"at cell-0\.env: relation"):
        await read_moves(urls)
    await db.execute("ALTER TABLE arrivals_away RENAME TO product_arrivals")


async def test_units_that_move_away_are_not_called_sold_out(services, db, postgres_url, other_url):
    outbox = PostgresOutbox(services.database)
    await outbox.add_endpoint("wh_a", "https://shop.example/", "whsec_AA==", ["stock.sold_out"], targets_max=1)
    earlier = "created_at = created_at - interval '1 hour', wanted_since = wanted_since - interval '1 hour'"
    await db.execute(f"UPDATE outbox_targets SET {earlier}")
    product = await add_product(services, allotment=UNITS)
    await sell(services, product, 1)
    await services.administer.change(product.product_id, PAUSED)
    await move((postgres_url, other_url), product.product_id)
    assert await db.fetchval("SELECT count(*) FROM outbox") == 0
    # The audit asks for no message either.
    await assert_invariants(services.database)


async def test_a_cell_that_was_restored_to_before_the_move_moves_the_product_once_more(
    services, postgres_url, other_url
):
    urls, product = (postgres_url, other_url), await paused(services)
    async with open_cell(urls[0], "0") as old, open_cell(urls[1], "1") as new:
        became = await new.enter(await old.moving(product.product_id), move_of(product.product_id))
    cells_by_name = dict(zip("01", urls, strict=True))
    assert await for_sale(urls, product.name) == (UNITS, UNITS)
    assert ["never left" in one for one in contradictions(*await read_moves(cells_by_name))] == [True]
    assert await move(urls, product.product_id) == (UNITS, became)
    assert await for_sale(urls, product.name) == (0, UNITS)
    assert contradictions(*await read_moves(cells_by_name)) == []


@pytest.mark.parametrize("others", [1, 3])
async def test_a_cell_that_was_restored_to_before_the_product_came_gets_it_once_more(
    services, postgres, postgres_url, other_url, others
):
    """`others`: products that the restored cell has made since, so that the product gets the same id (the rehearsal took one) or another."""
    product = await paused(services)
    _, became = await move((postgres_url, other_url), product.product_id)
    async with database_of_cell_1(postgres) as restored_url:
        urls = postgres_url, restored_url
        cells_by_name = dict(zip("01", urls, strict=True))
        for _ in range(others):
            await _fetch(restored_url, f"SELECT {OTHER}")
        assert await for_sale(urls, product.name) == (0, 0)
        said = f"leads to {became}, which cell 1 does not have: repeat `flashsale cells move {product.product_id}`"
        assert [one.endswith(said) for one in contradictions(*await read_moves(cells_by_name))] == [True]
        assert await move(urls, product.product_id) == (UNITS, first_product(1) + others)
        assert await move(urls, product.product_id) == (UNITS, first_product(1) + others)
        assert await for_sale(urls, product.name) == (0, UNITS)
        assert contradictions(*await read_moves(cells_by_name)) == []


async def test_a_database_with_a_moved_product_is_upgraded_and_taken_back(empty_url):
    """Before 0040 the trigger refuses what a restored cell needs."""
    assert alembic(empty_url, "upgrade", "0039").returncode == 0
    product_id = await _fetch(empty_url, f"SELECT {OTHER}")
    await execute(empty_url, f"UPDATE products SET paused = true WHERE product_id = {product_id}")
    left = f"SELECT leave_cell_v1({product_id}, '{move_of(product_id)}', 1, false)"
    assert await _fetch(empty_url, left) == "left"
    leads_to = "UPDATE products SET moved_to = {}"
    await execute(empty_url, leads_to.format(first_product(1) + 9))
    steps = ("upgrade", "0039", True), ("upgrade", "0040", False), ("downgrade", "0039", True)
    for number, (direction, revision, refused) in enumerate(steps):
        assert alembic(empty_url, direction, revision).returncode == 0
        with pytest.raises(asyncpg.CheckViolationError) if refused else nullcontext():
            await execute(empty_url, leads_to.format(first_product(1) + number))
        with pytest.raises(asyncpg.CheckViolationError):
            await execute(empty_url, leads_to.format("NULL"))
    assert await _fetch(empty_url, "SELECT moved_to FROM products") == first_product(1) + 1


async def test_a_move_that_ends_while_the_cells_are_read_is_no_contradiction(
    services, postgres_url, other_url, monkeypatch
):
    urls, product = (postgres_url, other_url), await paused(services)
    read, moved = PostgresMovingCell.departures, []

    async def departures(cell):
        if not moved:
            moved.append(await move(urls, product.product_id))
        return await read(cell)

    monkeypatch.setattr(PostgresMovingCell, "departures", departures)
    assert contradictions(*await read_moves(dict(zip("01", urls, strict=True)))) == []
    assert moved


async def test_a_move_that_began_goes_to_no_third_cell(services, db, postgres_url, other_url):
    product = await paused(services)
    await db.execute("SELECT leave_cell_v1($1, $2, 2, false)", product.product_id, uuid.uuid4())
    with pytest.raises(NotReady, match="moves to cell 2, and --to is cell 1"):
        await move((postgres_url, other_url), product.product_id)


class Wire:
    """The way from a command to both cells; cut at a message, it is cut for both, as when the command is killed."""

    def __init__(self, at=None, *, after=False):
        """Cut `at` this message to a server: before it is passed on, or `after` the server has answered it."""
        self.at, self.after = at, after
        self.sent, self.cut = 0, False
        self._open = set()

    @asynccontextmanager
    async def to(self, url):
        """Give the URL by which a database is reached over this wire."""
        parts = urlsplit(url)

        async def passed(reader, writer):
            there = await asyncio.open_connection(parts.hostname, parts.port)
            self._open |= {writer, there[1]}
            await asyncio.gather(self._requests(reader, there[1]), self._replies(there[0], writer))

        server = await asyncio.start_server(passed, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        netloc = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{port}"
        try:
            yield urlunsplit(parts._replace(netloc=netloc))
        finally:
            self._end()
            server.close()

    def _end(self):
        for one in self._open:
            one.transport.abort()

    async def _requests(self, reader, writer):
        with suppress(OSError):
            while data := await reader.read(65536):
                self.sent += 1
                if self.sent == self.at and not self.after:
                    self.cut = True
                    self._end()
                    return
                writer.write(data)
            writer.close()

    async def _replies(self, reader, writer):
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.after and self.at is not None and self.sent >= self.at:
                    self.cut = True
                    self._end()
                    return
                writer.write(data)
            writer.close()


async def over(wire, urls, run):
    """Do something over a wire; whether it came to its end."""
    async with wire.to(urls[0]) as old_url, wire.to(urls[1]) as new_url:
        try:
            async with open_cell(old_url, "old") as old, open_cell(new_url, "new") as new:
                await run(old, new)
        except NotReady:
            return False
    return True


async def alone(urls):
    """Wait until no session of a move is left: what it had sent is decided."""
    names = [urlsplit(url).path.removeprefix("/") for url in urls]
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY($1) AND application_name = '' AND pid <> pg_backend_pid()"
    async with asyncio.timeout(60):
        while await _fetch(urls[0], busy, names):
            await asyncio.sleep(0.01)


async def cut_everywhere(services, urls, run):
    """Cut a run at each message; yields the product, what was for sale afterwards in both cells, and the wire."""
    for after in (False, True):
        at = 0
        while True:
            at += 1
            product = await paused(services)
            wire = Wire(at, after=after)
            ended = await over(wire, urls, lambda old, new, one=product: run(old, new, one.product_id))
            await alone(urls)
            yield product, await for_sale(urls, product.name), wire
            if ended and not wire.cut:
                break


async def test_wherever_a_move_is_cut_off_its_units_are_in_one_cell_at_most_and_a_repetition_ends_it(
    services, postgres_url, other_url
):
    urls = postgres_url, other_url
    seen = set()

    async def run(old, new, product_id):
        await move_product(old, new, product_id)

    tried = 0
    async for product, found, _ in cut_everywhere(services, urls, run):
        tried += 1
        assert found in {(UNITS, 0), (0, 0), (0, UNITS)}
        departures, arrivals, numbers = await read_moves(dict(zip("01", urls, strict=True)))
        left = next((one for one in departures if one.product_id == product.product_id), None)
        wrong = contradictions(departures, arrivals, numbers)
        half = left is not None and left.moved_to is None
        assert [f"move {product.product_id}`" in one for one in wrong] == [True] * half
        seen.add((found, half))
        units, became = await move(urls, product.product_id)
        assert (units, await for_sale(urls, product.name)) == (UNITS, (0, UNITS))
        assert await move(urls, product.product_id) == (units, became)
        assert contradictions(*await read_moves(dict(zip("01", urls, strict=True)))) == []
    # Every state between two steps was there.
    assert seen == {((UNITS, 0), False), ((0, 0), True), ((0, UNITS), True), ((0, UNITS), False)}
    assert tried > 20


async def test_without_the_order_of_the_steps_units_would_be_in_both_cells(services, postgres_url, other_url):
    async def run(old, new, product_id):
        moving, move_id = await old.moving(product_id), uuid.uuid4()
        became = await new.enter(moving, move_id)
        await old.leave(product_id, move_id, 1, limits_anew=False)
        await old.tell(product_id, move_id, became)

    seen = {found async for _, found, _ in cut_everywhere(services, (postgres_url, other_url), run)}
    assert (UNITS, UNITS) in seen


async def test_two_moves_of_one_product_at_once_make_one(services, postgres_url, other_url):
    urls = postgres_url, other_url
    product = await paused(services)
    ended = await asyncio.gather(*(move(urls, product.product_id) for _ in range(4)))
    assert len(set(ended)) == 1
    assert await for_sale(urls, product.name) == (0, UNITS)
