import asyncio
import re
import time

import pytest

from flashsale.adapters.redis.connection import SCRIPTS
from flashsale.adapters.redis.decisions import KEPT_S, Decision, Decisions
from flashsale.adapters.redis.gate import RedisGate
from flashsale.domain.errors import LimitReached, RateLimited, SoldOut
from flashsale.domain.gate import Admission, GateReturn, LeaseEnd
from tests.conftest import add_buyers, add_product, make_settings
from tests.support.accepting import new_id
from tests.support.gates import admit, ask, flushed, state


async def test_units_are_leased_settled_and_given_back(services):
    product = await add_product(services, allotment=5)
    users = await add_buyers(services, 2)
    kept = await admit(services, product, users[0], quantity=2)
    lost = await admit(services, product, users[1])
    assert (kept.admission, kept.epoch) == (Admission.ADMITTED, product.epoch)
    found = await state(services, product)
    assert (found.stock, found.leases, found.leased_units) == (2, 2, 3)
    services.gate.settle(product.product_id, kept.order_id)
    services.gate.give_back(product.product_id, lost.order_id)
    services.gate.give_back(product.product_id, lost.order_id)
    await flushed(services, product, lambda found: (found.stock, found.leases) == (3, 0))
    services.gate.give_back(product.product_id, lost.order_id)
    await admit(services, product, users[1])
    assert (await state(services, product)).stock == 2


async def test_a_running_request_of_the_same_key_shares_its_lease(services):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    first = await admit(services, product, user, key="k")
    second = await admit(services, product, user, key="k")
    assert second.order_id == first.order_id
    assert (await state(services, product)).stock == 9
    both = await asyncio.gather(*(admit(services, product, user, key="in one script call") for _ in range(2)))
    assert both[0].order_id == both[1].order_id
    assert (await state(services, product)).stock == 8


async def test_no_stock_no_admission(services):
    product = await add_product(services, allotment=1)
    users = await add_buyers(services, 3)
    answers = await asyncio.gather(*(admit(services, product, user) for user in users))
    assert sorted(answer.admission for answer in answers) == ["admitted", "sold_out", "sold_out"]


async def test_the_limit_per_buyer_is_kept_and_given_back(services):
    product = await add_product(services, limit_per_buyer=2)
    user = (await add_buyers(services, 1))[0]
    first = await admit(services, product, user, quantity=2)
    assert (await admit(services, product, user)).admission is Admission.LIMIT_REACHED
    services.gate.give_back(product.product_id, first.order_id)
    await flushed(services, product, lambda found: found.stock == 10)
    assert (await admit(services, product, user)).admission is Admission.ADMITTED


async def test_requests_per_window_and_attempts_per_minute_are_limited(postgres_url, valkey, redis):
    from flashsale.bootstrap.api import open_services

    settings = make_settings(
        postgres_url, valkey.url, gate={"rate_limit": 3, "rate_window_s": 3600, "attempts_per_minute": 2}
    )
    async with open_services(settings) as services:
        product = await add_product(services)
        user, other = await add_buyers(services, 2)
        answers = [(await admit(services, product, user)).admission for _ in range(4)]
        assert answers == ["admitted", "admitted", "rate_limited", "rate_limited"]
        # Five of one user in one batch.
        batches = services.gate.batches[0]
        answers = await asyncio.gather(*(admit(services, product, other) for _ in range(5)))
        assert [answer.admission for answer in answers] == ["admitted", "admitted", *["rate_limited"] * 3]
        assert [answer.window_s for answer in answers[2:]] == [60, 3600, 3600]
        assert services.gate.batches[0] == batches + 1
        with pytest.raises(RateLimited) as caught:
            await services.buy(ask(product, user))
        assert caught.value.retry_after_s >= 1
        assert (caught.value.limit, caught.value.window_s) == (3, 3600)


@pytest.mark.parametrize(
    "meddle",
    [
        ["FLUSHALL"],
        ["DEL", "stock"],
        ["DEL", "epoch"],
        ["SET", "stock", "many"],
        ["SET", "stock", "1.5"],
        ["SET", "stock", "-3"],
        ["SET", "stock", "007"],
        ["SET", "stock", "99999999999999999999"],
        ["SET", "epoch", "999"],
        ["SET", "epoch", "9999999999999"],
        ["SET", "run", "another server"],
        ["SET", "leases", "no set"],
        ["SET", "lease", "no hash"],
        ["SET", "buyers", "no hash"],
    ],
    ids=" ".join,
)
async def test_foreign_contents_are_not_believed_and_the_gate_is_reloaded(services, redis, meddle):
    product = await add_product(services)
    users = await add_buyers(services, 2)
    command, *rest = meddle
    await redis.execute_command(command, *(f"flashsale:{{{product.product_id}}}:{rest[0]}", *rest[1:]) if rest else ())
    assert (await admit(services, product, users[0])).admission is Admission.BYPASS
    for _ in range(20):
        if await services.load_gate(product.product_id):
            break
    product = await services.catalog.get(product.product_id)
    assert (await state(services, product)).stock == 10
    assert (await admit(services, product, users[1])).admission is Admission.ADMITTED


async def test_a_restarted_server_is_not_loaded_although_its_data_is(services, valkey):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    assert (await admit(services, product, user)).admission is Admission.ADMITTED
    await valkey.kill()
    answer = await admit(services, product, user)
    assert answer.admission is Admission.BYPASS
    await valkey.start()
    await asyncio.sleep(services.settings.redis.reconnect_s)
    assert not (await state(services, product)).loaded
    assert (await admit(services, product, user)).admission is Admission.BYPASS


async def test_an_older_loading_does_not_replace_a_newer_one(services):
    product = await add_product(services)
    assert await services.gate.load(product.product_id, epoch=product.epoch + 1, stock=7)
    assert not await services.gate.load(product.product_id, epoch=product.epoch, stock=10)


async def test_a_return_counts_once_and_only_under_its_epoch(services):
    product = await add_product(services, allotment=5)
    user = (await add_buyers(services, 1))[0]
    one = GateReturn(order_id=new_id(), product_id=product.product_id, user_id=user, quantity=2, epoch=product.epoch)
    other = GateReturn(
        order_id=new_id(), product_id=product.product_id, user_id=user, quantity=2, epoch=product.epoch - 1
    )
    assert await services.gate.return_units(product.product_id, [one])
    assert await services.gate.return_units(product.product_id, [one])
    assert not await services.gate.return_units(product.product_id, [other])
    assert (await state(services, product)).stock == 7


async def test_buys_agree_with_the_gate_and_the_database(services):
    product = await add_product(services, allotment=10, limit_per_buyer=1)
    users = await add_buyers(services, 30)
    results = await asyncio.gather(
        *(services.buy(ask(product, user, key="k")) for user in users), return_exceptions=True
    )
    sold = [result for result in results if not isinstance(result, Exception)]
    assert len({accepted.order_id for accepted in sold}) == 10
    assert {type(result) for result in results if isinstance(result, Exception)} == {SoldOut}
    winner = users[[isinstance(result, Exception) for result in results].index(False)]
    assert await services.buy(ask(product, winner, key="k")) in sold, "a replay, although sold out and at the limit"
    with pytest.raises((LimitReached, SoldOut)):
        await services.buy(ask(product, winner, key="other"))
    await flushed(services, product, lambda found: (found.stock, found.leases) == (0, 0))


async def test_without_redis_postgres_alone_decides(postgres_url):
    from flashsale.bootstrap.api import open_services
    from tests.conftest import assert_invariants

    settings = make_settings(postgres_url, "redis://127.0.0.1:1/0", gate={"rate_limit": 5, "rate_window_s": 3600})
    async with open_services(settings) as services:
        product = await add_product(services, allotment=10)
        users = await add_buyers(services, 25)
        results = await asyncio.gather(*(services.buy(ask(product, user)) for user in users), return_exceptions=True)
        assert sum(not isinstance(result, Exception) for result in results) == 10
        await assert_invariants(services.database)


async def test_a_gate_that_counts_too_many_sells_no_more_than_there_is(services, redis):
    product = await add_product(services, allotment=5)
    await redis.set(f"flashsale:{{{product.product_id}}}:stock", 1000)
    users = await add_buyers(services, 30)
    results = await asyncio.gather(*(services.buy(ask(product, user)) for user in users), return_exceptions=True)
    assert sum(not isinstance(result, Exception) for result in results) == 5
    await flushed(services, product, lambda found: not found.leases)


async def test_closing_the_gate_sends_what_was_decided(services, settings):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    gate = RedisGate(settings.redis, settings.gate)
    answer = await gate.admit(product, new_id(), ask(product, user))
    gate.give_back(product.product_id, answer.order_id)
    await gate.close()
    assert (await state(services, product)).stock == 10


@pytest.mark.parametrize("foreign", ["type", "field"])
async def test_foreign_rates_are_forgotten_and_unload_nothing(services, redis, foreign):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    now_s = int(time.time())
    for window in range(now_s, now_s + 60):
        key = f"flashsale:{{{product.product_id}}}:rate:{window}"
        await (redis.set(key, "no hash") if foreign == "type" else redis.hset(key, str(user), "x"))
    assert (await admit(services, product, user)).admission is Admission.ADMITTED
    assert (await state(services, product)).loaded


ENDS = {
    LeaseEnd.KEPT: (lambda gate, *lease: gate.settle(*lease), 3),
    LeaseEnd.GIVEN_BACK: (lambda gate, *lease: gate.give_back(*lease), 5),
    LeaseEnd.SHORT: (lambda gate, *lease: gate.drop(*lease, visible=1), 4),
}


def test_the_ends_of_leases_are_those_of_the_script():
    assert set(ENDS) == set(LeaseEnd)
    script = (SCRIPTS / "admit.lua").read_text()
    [names, numbers] = re.search(r"^local (KEPT, .*) = (.*)$", script, re.MULTILINE).groups()
    assert dict(zip(names.split(", "), map(int, numbers.split(", ")), strict=True)) == LeaseEnd.__members__


@pytest.mark.parametrize("end", LeaseEnd)
async def test_a_decision_ends_its_lease_whatever_epoch_its_batch_knows(services, end):
    tell, stock = ENDS[end]
    old = await add_product(services, allotment=5)
    user = (await add_buyers(services, 1))[0]
    await services.load_gate(old.product_id, seen_epoch=old.epoch)
    product = await services.catalog.get(old.product_id)
    assert product.epoch > old.epoch
    lease = await admit(services, product, user, quantity=2)
    assert lease.admission is Admission.ADMITTED
    tell(services.gate, product.product_id, lease.order_id)
    # A request that waited since before the loading takes the decision along.
    assert (await admit(services, old, user)).admission is Admission.BYPASS
    found = await state(services, product)
    assert (found.stock, found.leases) == (stock, 0)


@pytest.mark.parametrize("end", LeaseEnd)
async def test_a_decision_outlives_the_connection_that_it_was_sent_on(services, redis, end):
    tell, stock = ENDS[end]
    product = await add_product(services, allotment=5)
    user = (await add_buyers(services, 1))[0]
    lease = await admit(services, product, user, quantity=2)
    tell(services.gate, product.product_id, lease.order_id)
    await redis.client_kill_filter(_type="normal", skipme=True)
    assert (await admit(services, product, user)).admission is Admission.BYPASS
    await flushed(services, product, lambda found: (found.stock, found.leases) == (stock, 0))


async def test_decisions_that_the_gate_does_not_hear_are_forgotten():
    decisions = Decisions()
    order_ids = [new_id() for _ in range(5)]
    now_s = time.monotonic()
    for place, order_id in enumerate(order_ids):
        decisions.add(Decision(1, order_id, LeaseEnd.KEPT, 0, now_s - KEPT_S * (1 - place % 2)))
    assert [one.order_id for one in decisions.take(1, 1)] == order_ids[1:2]
    assert [one.order_id for one in decisions.take(1, 5)] == order_ids[3:4]
    assert (len(decisions), decisions.products) == (0, [])
