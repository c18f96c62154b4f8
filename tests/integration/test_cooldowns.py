"""Units that a buyer held and did not pay for are free at once, and count toward the buyer's limit for a while."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.domain.errors import CoolingDown, LimitReached
from flashsale.domain.gate import Admission
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome, PaymentResult
from flashsale.domain.products import LimitPer, PaymentMode, ProductChange
from tests.conftest import add_buyers, add_product, sweep
from tests.integration.test_limit_identity import tags, violations
from tests.support.accepting import Outcome, accept, accept_one, acceptance, new_id, propose, wait_for_lock
from tests.support.gates import admit, ask

COUNTED = "CASE WHEN b.cools_until > _now THEN b.cooling ELSE 0 END + excluded.units"


async def expire(services, db, order_id):
    await services.order_rows.process([order_id], payment_due_s=30)
    await db.execute("UPDATE orders SET due_at = now() WHERE order_id = $1", order_id)
    assert (await sweep(services)).expired == 1


async def cancel(services, db, order_id):
    await services.order_rows.process([order_id], payment_due_s=30)
    assert await services.order_rows.end([order_id], OrderStatus.CANCELLED) == [order_id]


async def decline(services, db, order_id):
    payments = PostgresPayments(services.database)
    await services.order_rows.process([order_id], payment_due_s=30)
    await services.order_rows.request_payment(order_id, due_s=30)
    [attempt] = await payments.begin([order_id], due_s=30)
    declined = PaymentResult(
        order_id=order_id, attempt=attempt.attempt, outcome=ChargeOutcome.DECLINED, reference=None, retry_after_s=1
    )
    assert await payments.finish([declined]) == {order_id: OrderStatus.PAYMENT_FAILED}


async def fail(services, db, order_id):
    assert await services.order_rows.end([order_id], OrderStatus.FAILED) == [order_id]


UNPAID = [expire, cancel, decline]


async def cooling_product(services, *, cooldown_s, **changes):
    terms = {"allotment": 3, "payment_mode": PaymentMode.BY_BUYER, "limit_per_buyer": 1, **changes}
    return await add_product(services, cooldown_s=cooldown_s, **terms)


async def pass_in_postgres(db):
    """Let all cool-downs have passed, also for the audit, which judges by the terms of the time."""
    await db.execute("UPDATE buyer_units SET cools_until = now()")
    for table in ("products", "product_terms"):
        await db.execute(f"UPDATE {table} SET cooldown_s = 0")


async def pass_cooldown(db, redis, product, user):
    """Let the buyer's cool-down have passed, in Postgres and at the gate."""
    key = f"flashsale:{{{product.product_id}}}:cooling"
    units = (await redis.hget(key, str(user))).split(":")[1]
    await redis.hset(key, str(user), f"{round(time.time() * 1000) - 1}:{units}")
    await pass_in_postgres(db)


@pytest.mark.parametrize("per", list(LimitPer))
@pytest.mark.parametrize("end", [*UNPAID, fail], ids=lambda end: end.__name__)
async def test_units_are_free_at_once_and_count_for_their_buyer_if_they_were_not_paid(services, db, end, per):
    product = await cooling_product(services, cooldown_s=600, limit_per=per)
    first, second = await tags(services, 2)
    [other] = await add_buyers(services, 1)
    before = datetime.now(UTC)
    await end(services, db, await accept_one(services, product, first))
    assert await db.fetchval("SELECT free FROM product_live WHERE product_id = $1", product.product_id) == 3
    await accept_one(services, product, other)
    for user in (first, second):
        [verdict] = await acceptance(services).accept([propose(product, user)])
        [held] = await acceptance(services).held([(product.product_id, user)])
        refused = end is not fail and (user is first or per is LimitPer.EMAIL_ROOT)
        assert verdict.outcome is (Outcome.LIMIT_REACHED if refused else Outcome.ACCEPTED)
        if refused:
            assert (verdict.held, held.units, held.cooling) == (1, 0, 1)
            assert verdict.cools_until == held.cools_until
            assert timedelta(seconds=600) < verdict.cools_until - before < timedelta(seconds=630)
        elif per is LimitPer.EMAIL_ROOT:
            break


async def test_a_buyer_of_a_limit_of_several_may_have_the_rest(services, db):
    product = await cooling_product(services, cooldown_s=600, allotment=9, limit_per_buyer=3)
    [user] = await add_buyers(services, 1)
    await cancel(services, db, await accept_one(services, product, user, quantity=2))
    assert await accept(services, propose(product, user, quantity=2)) == [Outcome.LIMIT_REACHED]
    await accept_one(services, product, user)
    [verdict] = await acceptance(services).accept([propose(product, user)])
    assert verdict.cools_until is not None, "without the two, there would be room"
    [verdict] = await acceptance(services).accept([propose(product, user, quantity=3)])
    assert (verdict.outcome, verdict.cools_until) == (Outcome.LIMIT_REACHED, None), "an order leaves no room for three"


async def test_after_its_cool_down_a_hold_counts_no_more_in_postgres_and_at_the_gate(services, db, redis):
    product = await cooling_product(services, cooldown_s=600)
    [user] = await add_buyers(services, 1)
    accepted = await services.buy(ask(product, user))
    await services.order_rows.process([accepted.order_id], payment_due_s=30)
    assert await services.order_rows.end([accepted.order_id], OrderStatus.CANCELLED)
    await services.orders._return_units()
    with pytest.raises(CoolingDown) as refused:
        await services.buy(ask(product, user))
    assert (await admit(services, product, user)).admission is Admission.LIMIT_REACHED
    cools_until = await db.fetchval("SELECT cools_until FROM buyer_units WHERE user_id = $1", user)
    promised_late = refused.value.ends_at - cools_until
    assert timedelta(0) < promised_late <= timedelta(seconds=1), "the answer promised no earlier instant"
    await pass_cooldown(db, redis, product, user)
    admitted = await admit(services, product, user)
    assert admitted.admission is Admission.ADMITTED, "the gate counts the units no more, and leases one"
    services.gate.give_back(product.product_id, admitted.order_id)
    await services.buy(ask(product, user))
    with pytest.raises(LimitReached) as again:
        await services.buy(ask(product, user))
    assert type(again.value) is LimitReached


async def test_cool_downs_that_overlap_end_together_also_at_the_gate(services, db, redis):
    product = await cooling_product(services, cooldown_s=600, limit_per_buyer=2)
    [user] = await add_buyers(services, 1)
    for _ in range(2):
        order_id = (await services.buy(ask(product, user))).order_id
        await services.order_rows.process([order_id], payment_due_s=30)
        await services.order_rows.end([order_id], OrderStatus.CANCELLED)
        await services.orders._return_units()
    row = await db.fetchrow("SELECT units, cooling, cools_until FROM buyer_units")
    assert (row["units"], row["cooling"]) == (0, 2)
    till_ms, units = (await redis.hget(f"flashsale:{{{product.product_id}}}:cooling", str(user))).split(":")
    assert units == "2"
    assert abs(int(till_ms) / 1000 - row["cools_until"].timestamp()) < 60
    assert (await admit(services, product, user)).admission is Admission.LIMIT_REACHED


@pytest.mark.parametrize("foreign", ["", "x", "1:x", "99999999999999999999:1", "1:99999999999999999999"])
async def test_foreign_values_of_cool_downs_refuse_nobody_for_good(services, redis, foreign):
    product = await cooling_product(services, cooldown_s=600)
    [user] = await add_buyers(services, 1)
    key = f"flashsale:{{{product.product_id}}}:"
    await redis.hset(key + "buyers", str(user), "1")
    await redis.hset(key + "cooling", str(user), foreign)
    assert (await services.buy(ask(product, user))).quantity == 1
    await redis.delete(key + "cooling")
    await redis.set(key + "cooling", "no hash")
    [other] = await add_buyers(services, 1)
    await redis.hset(key + "buyers", str(other), "1")
    assert (await services.buy(ask(product, other))).quantity == 1


@pytest.mark.parametrize("counted", [True, False])
async def test_a_buy_that_meets_the_end_of_a_hold_of_its_buyer_is_refused(services, db, counted):
    """The buy waits for the buyer's row while the hold ends; the control does not count what cools down."""
    product = await cooling_product(services, cooldown_s=600)
    [user] = await add_buyers(services, 1)
    order_id = await accept_one(services, product, user)
    await services.order_rows.process([order_id], payment_due_s=30)
    if not counted:
        text = await db.fetchval("SELECT pg_get_functiondef('accept_orders_v5'::regproc)")
        assert text.count(COUNTED) == 1
        await db.execute(text.replace(COUNTED, "excluded.units"))
    transaction = db.transaction()
    await transaction.start()
    assert await db.fetchval("SELECT end_orders_v2(ARRAY[$1::uuid], 'cancelled')", order_id)
    buying = asyncio.create_task(accept(services, propose(product, user)))
    await wait_for_lock(db)
    assert not buying.done()
    await transaction.commit()
    if counted:
        assert await buying == [Outcome.LIMIT_REACHED]
        return
    assert await buying == [Outcome.ACCEPTED]
    # The audit judges by the terms that held when the hold ended, whatever they are now.
    await services.products.change(product.product_id, ProductChange(fields={"cooldown_s": 0}))
    assert await violations(services) == {"I10"}
    await db.execute("UPDATE product_terms SET cooldown_s = 0")
    assert await violations(services) == set()


async def test_a_cool_down_that_came_later_makes_no_order_of_before_wrong(services, db):
    product = await cooling_product(services, cooldown_s=0)
    [user] = await add_buyers(services, 1)
    await cancel(services, db, await accept_one(services, product, user))
    await cancel(services, db, await accept_one(services, product, user))
    await services.products.change(product.product_id, ProductChange(fields={"cooldown_s": 600}))
    product = await services.catalog.get(product.product_id)
    order_id = await accept_one(services, product, user)
    assert await violations(services) == set()
    await cancel(services, db, order_id)
    assert await accept(services, propose(product, user)) == [Outcome.LIMIT_REACHED]


async def test_no_order_is_made_of_a_key_that_was_told_of_a_cool_down_since_it_began(services, db):
    product = await cooling_product(services, cooldown_s=600)
    [user] = await add_buyers(services, 1)
    await cancel(services, db, await accept_one(services, product, user))
    first = propose(product, user, key="k", order_id=new_id())
    assert await accept(services, propose(product, user, key="k", epoch=None)) == [Outcome.LIMIT_REACHED]
    await pass_in_postgres(db)
    assert await accept(services, first) == [Outcome.VOIDED], "its buyer was told to come later"
    time.sleep(0.002)  # noqa: ASYNC251 - ids tell milliseconds apart
    assert await accept(services, propose(product, user, key="k")) == [Outcome.ACCEPTED]
