"""The buy between the gate and the truth: lost COMMITs, stale epochs, requests that somebody else finishes."""

import asyncio
import contextlib
import gc

import pytest

from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.domain.errors import SoldOut, Unavailable
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import LiveStock, PaymentMode
from flashsale.domain.requests import BuyRequest
from flashsale.domain.users import Principal, Role
from flashsale.usecases.catalog import Catalog
from flashsale.usecases.ports import CommitUnknown
from tests.conftest import add_buyers, add_product
from tests.support.accepting import acceptance, propose
from tests.support.buying import buying
from tests.support.gates import admit, ask, flushed


class LossyAcceptance(PostgresAcceptance):
    """Loses the connection around COMMIT, as often as told; afterwards it works."""

    def __init__(self, database, *, losses, committed):
        super().__init__(database, order_due_s=10)
        self.losses = losses
        self.committed = committed

    async def accept(self, proposals):
        if not self.losses:
            return await super().accept(proposals)
        self.losses -= 1
        if self.committed:
            await super().accept(proposals)
        raise CommitUnknown


@pytest.mark.parametrize("key", ["k", None])
async def test_a_commit_whose_reply_was_lost_is_answered_with_its_order(services, db, key):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    accepted = await buying(services, LossyAcceptance(services.database, losses=1, committed=True))(
        ask(product, user, key=key)
    )
    assert await db.fetchval("SELECT order_id FROM orders") == accepted.order_id
    await flushed(services, product, lambda found: (found.stock, found.leases) == (9, 0))


async def test_a_commit_that_never_happened_is_void_and_its_units_go_back(services, db):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    buy = buying(services, LossyAcceptance(services.database, losses=1, committed=False))
    with pytest.raises(Unavailable):
        await buy(ask(product, user, key="k"))
    assert await db.fetchval("SELECT kind FROM requests") == "void"
    await flushed(services, product, lambda found: (found.stock, found.leases) == (10, 0))
    assert (await buy(ask(product, user, key="k"))).order_id


async def test_a_batch_whose_commit_was_lost_is_sorted_out_one_by_one(services, db):
    product = await add_product(services, allotment=5)
    users = await add_buyers(services, 12)
    buy = buying(services, LossyAcceptance(services.database, losses=2, committed=True))
    results = await asyncio.gather(*(buy(ask(product, user, key="k")) for user in users), return_exceptions=True)
    sold = {result.order_id for result in results if not isinstance(result, Exception)}
    assert sold == {row["order_id"] for row in await db.fetch("SELECT order_id FROM orders")}
    assert {type(result) for result in results if isinstance(result, Exception)} <= {SoldOut, Unavailable}
    await flushed(services, product, lambda found: not found.leases)


async def test_a_lease_of_an_older_loading_is_admitted_once_more(services):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    # Loaded behind this process' back: its catalog and the gate are of the old epoch, Postgres is not.
    begun = await services.books.begin_load(product.product_id, seen_epoch=product.epoch)
    assert begun == (product.epoch + 1, 10)
    assert (await services.buy(ask(product, user))).order_id


async def test_a_request_that_a_dead_process_began_is_finished_under_the_same_id(services, db):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    begun = await admit(services, product, user, key="k")
    accepted = await services.buy(ask(product, user, key="k"))
    assert accepted.order_id == begun.order_id
    await flushed(services, product, lambda found: (found.stock, found.leases) == (9, 0))


async def test_a_key_that_is_under_way_with_another_body_does_not_free_the_first_ones_units(services, db):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    begun = await admit(services, product, user, key="k")
    other = BuyRequest(user_id=user, product_id=product.product_id, quantity=3, key="k")
    first = propose(product, user, key="k", order_id=begun.order_id)
    await acceptance(services).accept([first])
    with pytest.raises(Exception, match="key was used"):
        await services.buy(other)
    await flushed(services, product, lambda found: (found.stock, found.leases) == (9, 1))
    services.gate.settle(product.product_id, begun.order_id)
    await flushed(services, product, lambda found: (found.stock, found.leases) == (9, 0))


async def test_too_many_orders_that_wait_mean_come_back_later(services, db):
    product = await add_product(services)
    users = await add_buyers(services, 2)
    busy = buying(services, acceptance(services), waiting_max=0)
    accepted = await services.buy(ask(product, users[0], key="k"))
    await services.catalog.count_waiting()
    with pytest.raises(Unavailable) as caught:
        await busy(ask(product, users[1], key="k"))
    assert caught.value.retry_after_s >= 1
    assert await busy(ask(product, users[0], key="k")) == accepted, "what was accepted is still answered"


async def test_what_was_sold_since_the_waiting_orders_were_counted_waits_too(services):
    product = await add_product(services)
    catalog = Catalog(services.products, poll_s=3600)
    await catalog.refresh()
    await catalog.count_waiting()
    for user in await add_buyers(services, 3):
        await services.buy(ask(product, user))
    await catalog.refresh()
    assert catalog.waiting(product.product_id) == 3
    await catalog.count_waiting()
    assert catalog.waiting(product.product_id) == 3


async def test_units_whose_releaser_died_before_it_told_the_gate_are_sold_again(services):
    product = await add_product(services, allotment=1, payment_mode=PaymentMode.BY_BUYER)
    first, second = await add_buyers(services, 2)
    accepted = await services.buy(ask(product, first, key="k"))
    await services.order_rows.process([accepted.order_id], payment_due_s=30)
    # Released in Postgres by somebody who tells the gate nothing; no maintenance runs here either.
    assert await services.order_rows.end([accepted.order_id], OrderStatus.CANCELLED)
    await services.catalog.refresh()
    async with asyncio.timeout(60):
        while True:
            try:
                assert await services.buy(ask(product, second, key="k"))
                break
            except SoldOut:
                await asyncio.sleep(0.02)


@pytest.fixture
async def sold_out(services, monkeypatch):
    """Sell the only unit, keep saying so for ever, and give product, its buyer and two others."""
    monkeypatch.setattr("flashsale.usecases.confirm.SOLD_OUT_S", 3600)
    product = await add_product(services, allotment=1, payment_mode=PaymentMode.BY_BUYER)
    buyers = await add_buyers(services, 3)
    await services.buy(ask(product, buyers[0], key="k"))
    await services.catalog.refresh()
    with pytest.raises(SoldOut):
        await services.buy(ask(product, buyers[1]))
    return product, *buyers


async def test_sold_out_is_repeated_without_asking_the_gate_again(services, sold_out):
    product, _, _, other = sold_out
    asked = services.gate.batches[1]
    for key in (None, "new"):
        with pytest.raises(SoldOut):
            await services.buy(ask(product, other, key=key))
    assert services.gate.batches[1] == asked


async def test_what_was_accepted_is_answered_again_while_sold_out_is_repeated(services, db, sold_out):
    product, winner, *_ = sold_out
    replay = await services.buy(ask(product, winner, key="k"))
    assert replay.order_id == await db.fetchval("SELECT order_id FROM orders")


async def test_sold_out_is_not_repeated_once_units_are_known_to_be_free(services, sold_out):
    product, winner, _, other = sold_out
    order_id = (await services.buy(ask(product, winner, key="k"))).order_id
    await services.order_rows.process([order_id], payment_due_s=30)
    await services.orders.cancel(order_id, Principal(user_id=winner, role=Role.BUYER))
    await flushed(services, product, lambda found: found.stock == 1)
    await services.catalog.refresh()
    assert await services.buy(ask(product, other))


async def test_sold_out_is_repeated_for_a_short_time_only(services, monkeypatch):
    product = await add_product(services, allotment=1, payment_mode=PaymentMode.BY_BUYER)
    first, second = await add_buyers(services, 2)
    order_id = (await services.buy(ask(product, first))).order_id
    await services.catalog.refresh()
    monkeypatch.setattr(services.catalog, "take_stock", lambda _: None)  # nothing tells this process of free units
    with pytest.raises(SoldOut):
        await services.buy(ask(product, second))
    await services.order_rows.process([order_id], payment_due_s=30)
    await services.orders.cancel(order_id, Principal(user_id=first, role=Role.BUYER))
    await flushed(services, product, lambda found: found.stock == 1)
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(SoldOut):
                assert await services.buy(ask(product, second))
                break
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("key", ["new", None])
async def test_a_refusal_leaves_the_garbage_collector_nothing(services, sold_out, key):
    product, *_, other = sold_out
    refusals = 10
    gc.collect()
    gc.disable()
    try:
        for _ in range(refusals):
            with contextlib.suppress(SoldOut):
                await services.buy(ask(product, other, key=key))
        assert gc.collect() < refusals
    finally:
        gc.enable()


async def test_several_units_that_are_not_there_say_nothing_of_one(services, monkeypatch):
    monkeypatch.setattr("flashsale.usecases.confirm.SOLD_OUT_S", 3600)
    product = await add_product(services, allotment=2)
    first, second, third = await add_buyers(services, 3)
    await services.buy(ask(product, first))
    none = LiveStock(product_id=product.product_id, free=0, version=0)
    monkeypatch.setattr(services.catalog, "stock", lambda _: none)  # a notification is late
    with pytest.raises(SoldOut):
        await services.buy(BuyRequest(user_id=second, product_id=product.product_id, quantity=2, key=None))
    assert await services.buy(ask(product, third))
