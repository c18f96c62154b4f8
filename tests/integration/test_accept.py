import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import ProductChange
from flashsale.usecases.ports import PoisonBatch
from tests.conftest import add_buyers, add_product
from tests.support.accepting import Outcome, accept, accept_one, acceptance, propose, wait_for_lock


async def test_an_accepted_order_has_its_units_event_and_job_in_one_commit(services, db):
    product = await add_product(services)
    users = await add_buyers(services, 3)
    verdicts = await acceptance(services).accept([propose(product, user, quantity=2, key="k") for user in users])
    assert [verdict.outcome for verdict in verdicts] == [Outcome.ACCEPTED] * 3
    assert verdicts[0].accepted.unit_price.minor == 99_999
    assert await db.fetchval("SELECT count(*) FROM units WHERE order_id IS NOT NULL") == 6
    assert await db.fetchval("SELECT count(*) FROM order_events WHERE status = 'queued'") == 3
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs") == 1, "one job for the batch"
    job = await db.fetchrow("SELECT id, task_name, args::text FROM procrastinate_jobs")
    assert all(str(verdict.accepted.order_id) in job["args"] for verdict in verdicts)
    assert await db.fetch("SELECT DISTINCT job_id, due_at > now() AS due FROM orders") == [(job["id"], True)]
    assert await db.fetchval("SELECT free FROM product_live") == 4


async def test_a_repeated_key_is_answered_with_the_first_order(services, db):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    first = await accept_one(services, product, user, key="k")
    again = propose(product, user, key="k")
    [verdict] = await acceptance(services).accept([again])
    assert (verdict.outcome, verdict.accepted.order_id) == (Outcome.REPLAYED, first)
    assert await db.fetchval("SELECT kind FROM requests WHERE order_id = $1", again.order_id) == "void"
    assert await accept(services, propose(product, user, key="k", quantity=2)) == [Outcome.KEY_REUSED]
    assert await accept(services, propose(product, user, key="k", order_id=first)) == [Outcome.REPLAYED]
    assert await db.fetchval("SELECT count(*) FROM orders") == 1


async def test_keys_belong_to_their_user(services):
    product = await add_product(services)
    users = await add_buyers(services, 2)
    assert await accept(services, *(propose(product, user, key="same") for user in users)) == [Outcome.ACCEPTED] * 2


async def test_a_void_proposal_can_never_become_an_order(services):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    proposal = propose(product, user, key="k")
    assert await acceptance(services).void([proposal.order_id]) == {proposal.order_id: True}
    assert await accept(services, proposal) == [Outcome.VOIDED]
    assert await accept(services, propose(product, user, key="k")) == [Outcome.ACCEPTED]


async def test_voiding_waits_for_an_accept_in_flight_and_finds_its_order(services, db):
    product = await add_product(services)
    proposal = propose(product, (await add_buyers(services, 1))[0])
    transaction = db.transaction()
    await transaction.start()
    await db.execute(
        "INSERT INTO requests (order_id, kind, user_id) VALUES ($1, 'order', $2)",
        proposal.order_id,
        proposal.request.user_id,
    )
    voiding = asyncio.create_task(acceptance(services).void([proposal.order_id]))
    await wait_for_lock(db)
    assert not voiding.done()
    await transaction.rollback()
    assert await voiding == {proposal.order_id: True}
    order_id = await accept_one(services, product, proposal.request.user_id)
    assert await acceptance(services).void([order_id]) == {order_id: False}


async def test_no_more_than_there_is_and_the_rest_is_told_sold_out(services):
    product = await add_product(services, allotment=3)
    users = await add_buyers(services, 5)
    outcomes = await accept(services, *(propose(product, user) for user in users))
    assert outcomes == [Outcome.ACCEPTED] * 3 + [Outcome.SOLD_OUT] * 2


async def test_a_small_request_gets_what_a_large_one_cannot(services):
    product = await add_product(services, allotment=3)
    users = await add_buyers(services, 3)
    outcomes = await accept(
        services,
        propose(product, users[0], quantity=2),
        propose(product, users[1], quantity=2),
        propose(product, users[2]),
    )
    assert outcomes == [Outcome.ACCEPTED, Outcome.SOLD_OUT, Outcome.ACCEPTED]


@pytest.mark.parametrize("key", [None, "k-1"])
async def test_units_that_others_lock_are_not_sold_out_but_tried_again(services, db, key):
    product = await add_product(services, allotment=2)
    users = await add_buyers(services, 2)
    transaction = db.transaction()
    await transaction.start()
    await db.execute("SELECT 1 FROM units WHERE unit_no = 1 FOR UPDATE")
    proposals = [propose(product, user, key=key) for user in users]
    assert await accept(services, *proposals) == [Outcome.ACCEPTED, Outcome.RETRY]
    await transaction.rollback()
    assert await accept(services, proposals[1]) == [Outcome.ACCEPTED], "a retry leaves nothing behind"


async def test_the_limit_per_buyer_counts_live_and_confirmed_orders(services):
    product = await add_product(services, limit_per_buyer=2)
    user = (await add_buyers(services, 1))[0]
    order_id = await accept_one(services, product, user)
    assert await accept(services, propose(product, user, quantity=2)) == [Outcome.LIMIT_REACHED]
    await accept_one(services, product, user)
    assert await accept(services, propose(product, user)) == [Outcome.LIMIT_REACHED]
    await services.order_rows.end([order_id], OrderStatus.FAILED)
    await accept_one(services, product, user)


async def test_the_limit_holds_when_one_buyer_races_with_himself(services):
    product = await add_product(services, allotment=50, limit_per_buyer=3)
    user = (await add_buyers(services, 1))[0]
    outcomes = await asyncio.gather(*(accept(services, propose(product, user)) for _ in range(12)))
    assert outcomes.count([Outcome.ACCEPTED]) == 3
    assert outcomes.count([Outcome.LIMIT_REACHED]) == 9


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"paused": True}, Outcome.PAUSED),
        ({"starts_at": datetime.now(UTC) + timedelta(hours=1)}, Outcome.NOT_STARTED),
        ({"ends_at": datetime.now(UTC) - timedelta(hours=1)}, Outcome.ENDED),
    ],
)
async def test_nothing_is_accepted_outside_the_window_or_while_paused(services, change, outcome):
    product = await add_product(services)
    users = await add_buyers(services, 2)
    kept = await accept_one(services, product, users[0], key="before")
    await services.products.change(product.product_id, ProductChange(fields=change))
    assert await accept(services, propose(product, users[1])) == [outcome]
    [replayed] = await acceptance(services).accept([propose(product, users[0], key="before")])
    assert replayed.accepted.order_id == kept, "what was accepted before is still answered"
    await services.products.change(
        product.product_id, ProductChange(fields={"paused": False, "starts_at": None, "ends_at": None})
    )


async def test_a_lease_of_another_epoch_is_not_accepted(services):
    product = await add_product(services)
    users = await add_buyers(services, 2)
    assert await accept(services, propose(product, users[0], epoch=product.epoch - 1)) == [Outcome.STALE_EPOCH]
    assert await accept(services, propose(product, users[1], epoch=None)) == [Outcome.ACCEPTED], "no lease, no epoch"


async def test_a_refusal_without_a_lease_leaves_no_trace(services, db):
    product = await add_product(services, allotment=0)
    user = (await add_buyers(services, 1))[0]
    assert await accept(services, propose(product, user, key="k", epoch=None)) == [Outcome.SOLD_OUT]
    assert await db.fetchval("SELECT count(*) FROM requests") == 0


async def test_one_bad_request_does_not_spoil_its_batch(services):
    product = await add_product(services)
    good = await add_buyers(services, 5)
    proposals = [propose(product, user) for user in [*good, uuid4()]]
    with pytest.raises(PoisonBatch):
        await acceptance(services).accept(proposals)
    verdicts = await services.buy.propose._accept(proposals)
    assert [verdict.outcome for verdict in verdicts] == [Outcome.ACCEPTED] * 5 + [Outcome.UNKNOWN_USER]


async def test_several_products_in_one_batch(services):
    products = [await add_product(services, allotment=allotment) for allotment in (1, 0, 5)]
    users = await add_buyers(services, 3)
    outcomes = await accept(services, *(propose(product, user) for user in users[:2] for product in products))
    assert outcomes == [
        Outcome.ACCEPTED,
        Outcome.SOLD_OUT,
        Outcome.ACCEPTED,
        Outcome.SOLD_OUT,
        Outcome.SOLD_OUT,
        Outcome.ACCEPTED,
    ]


async def sell_ten_to_fifty(services, db, *, claim_hand):
    product = await add_product(services, allotment=10)
    users = await add_buyers(services, 50)
    await set_hand(db, product, claim_hand)

    async def until_decided(user):
        proposal = propose(product, user)
        async with asyncio.timeout(60):
            while (outcome := (await accept(services, proposal))[0]) is Outcome.RETRY:
                pass
        return outcome

    outcomes = await asyncio.gather(*(until_decided(user) for user in users))
    assert outcomes.count(Outcome.ACCEPTED) == 10
    assert outcomes.count(Outcome.SOLD_OUT) == 40
    claimed = "SELECT count(DISTINCT order_id) FROM units WHERE product_id = $1"
    assert await db.fetchval(claimed, product.product_id) == 10


async def test_fifty_connections_on_ten_units_sell_ten(services, db):
    await sell_ten_to_fifty(services, db, claim_hand=0)


async def test_fifty_connections_on_units_behind_the_last_claim_sell_ten(services, db):
    await sell_ten_to_fifty(services, db, claim_hand=10)


async def test_units_behind_the_last_claim_are_sold_too(services, db):
    product = await add_product(services, allotment=5)
    users = await add_buyers(services, 2)
    await set_hand(db, product, 3)
    await accept_one(services, product, users[0], quantity=4)
    free = "SELECT unit_no FROM units WHERE product_id = $1 AND order_id IS NULL"
    assert await db.fetchval(free, product.product_id) == 3
    await accept_one(services, product, users[1])
    assert await db.fetchval(free, product.product_id) is None


async def set_hand(db, product, unit_no):
    """Let the next claim begin to look behind this unit."""
    await db.execute("UPDATE product_live SET claim_hand = $2 WHERE product_id = $1", product.product_id, unit_no)


async def test_a_change_waits_for_accepts_that_are_half_way(services, db):
    product = await add_product(services)
    transaction = db.transaction()
    await transaction.start()
    await db.execute("SELECT pg_advisory_xact_lock_shared(7000, $1)", product.product_id)
    pausing = asyncio.create_task(services.products.change(product.product_id, ProductChange(fields={"paused": True})))
    await wait_for_lock(db)
    assert not pausing.done()
    await transaction.commit()
    assert await pausing


async def test_the_allotment_never_falls_below_what_orders_hold(services):
    product = await add_product(services, allotment=5)
    user = (await add_buyers(services, 1))[0]
    await accept_one(services, product, user, quantity=3)
    assert await services.products.set_allotment(product.product_id, 2) == ("too_small", 3)
    assert await services.products.set_allotment(product.product_id, 3) == ("changed", 3)
    assert await services.products.set_allotment(product.product_id, 3) == ("unchanged", 3)
    assert await services.products.set_allotment(product.product_id, 20) == ("changed", 3)
    assert await services.products.set_allotment(product.product_id + 1, 1) == ("unknown", 0)
