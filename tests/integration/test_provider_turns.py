"""The provider's budget is kept by all processes together, and a provider that is away costs no attempt."""

import asyncio
import math
import time
from contextlib import AsyncExitStack

import pytest

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.adapters.postgres.turns import PostgresTurns
from flashsale.bootstrap.api import open_services
from flashsale.domain.payments import ChargeAnswer, ChargeOutcome
from flashsale.settings.stripe import StripeSettings
from flashsale.usecases.charge import Charge
from flashsale.usecases.halving import Postpone
from flashsale.usecases.readiness import PROVIDER_AWAY
from flashsale.usecases.return_units import ReturnUnits
from flashsale.usecases.turns import PROBE_S, Breaker, Turns
from tests.conftest import sweep
from tests.support.charging import Gateway, charging, status, waiting_order

RATE, WORKERS, SECONDS = 40, 3, 1.5


def breaker(clock=time.monotonic, failures=3):
    return Breaker(failures=failures, pause_s=5, pause_max_s=20, clock=clock)


async def pressed(settings, rate, *, shared=True):
    """Let workers with connections of their own press for turns; returns when each call was made."""
    made = []
    until_s = time.monotonic() + SECONDS

    async def press(turns):
        while time.monotonic() < until_s:
            if await turns.take("create") is None:
                made.append(time.monotonic())

    async with AsyncExitStack() as opened:
        presses = []
        for number in range(WORKERS):
            database = Database(settings.postgres, name=f"test-{number}")
            opened.push_async_callback(database.close)
            await database.open()
            provider = "stripe" if shared else f"stripe-{number}"
            turns = Turns(provider, PostgresTurns(database), breaker(), rate_per_s=rate, wait_s=0.2)
            presses += [press(turns) for _ in range(10)]
        await asyncio.gather(*presses)
    return sorted(made)


def most_in_a_second(made):
    return max(sum(1 for other in made if at <= other < at + 1) for at in made)


async def test_workers_together_keep_the_budget_and_use_it(settings):
    made = await pressed(settings, RATE)
    # An instant that a busy machine reaches late falls together with the next one.
    assert most_in_a_second(made) <= RATE + RATE // 10
    assert len(made) >= 0.7 * RATE * SECONDS


async def test_without_the_shared_row_they_exceed_it(settings):
    assert most_in_a_second(await pressed(settings, RATE, shared=False)) > 1.5 * RATE


async def test_a_rejection_holds_every_worker(services):
    turns = [
        Turns("stripe", PostgresTurns(services.database), breaker(), rate_per_s=RATE, wait_s=0.2) for _ in range(2)
    ]
    assert await turns[0].take("create") is None
    await turns[0].rejected("create", 60)
    assert await turns[1].take("create") == pytest.approx(0.2)
    assert await turns[1].take("capture") is None, "each operation has a budget of its own"


async def charge_with(services, turns, *outcomes):
    gateway = Gateway(*outcomes)
    returning = ReturnUnits(services.books, services.gate, limit=100)
    postpone = Postpone(services.order_rows, pause_s=1, pause_max_s=1)
    charge = Charge(
        PostgresPayments(services.database),
        gateway,
        services.settings.payments,
        returning,
        postpone,
        payment_due_s=30,
        turns=turns,
    )
    return charge, gateway


async def attempts(db, order_id):
    return await db.fetchval("SELECT count(*) FROM payment_attempts WHERE order_id = $1", order_id)


@pytest.mark.parametrize("cause", ["the breaker is open", "the budget is used up"])
async def test_an_order_that_has_to_wait_gets_no_attempt_and_one_job_when_it_is_due(services, db, cause):
    order_id, _ = await waiting_order(services)
    await db.execute("DELETE FROM procrastinate_jobs")
    brk = breaker(failures=1)
    turns = Turns("stripe", PostgresTurns(services.database), brk, rate_per_s=1, wait_s=0.5)
    if cause == "the breaker is open":
        brk.failed()
    else:
        other = Turns("stripe", PostgresTurns(services.database), breaker(), rate_per_s=1, wait_s=0.5)
        assert await other.admit() == 0, "another process begins a payment"
    charge, gateway = await charge_with(services, turns, ChargeOutcome.CAPTURED)
    await charge(order_id)
    assert (gateway.asked, await attempts(db, order_id)) == ([], 0)
    assert (await status(services, order_id)).value == "awaiting_payment"
    assert (await sweep(services)).deferred == 0, "it is not due yet"
    await db.execute("UPDATE orders SET due_at = clock_timestamp()")
    assert (await sweep(services)).deferred == 1
    assert (await sweep(services)).deferred == 0
    brk.answered()
    await db.execute("DELETE FROM provider_turns")
    await charge(order_id)
    assert (await status(services, order_id)).value == "confirmed"


class Busy(Gateway):
    """A provider whose budget has no turn within the longest wait."""

    async def charge(self, **_):
        return ChargeAnswer(outcome=ChargeOutcome.UNSENT, reference="not its turn", retry_after_s=1.0)


async def test_a_payment_that_waits_for_its_turn_waits_no_longer_each_time(services, db):
    order_id, _ = await waiting_order(services)
    charge = charging(services, Busy())
    for _ in range(5):
        await charge(order_id)
        left = await db.fetchval("SELECT extract(EPOCH FROM due_at - clock_timestamp()) FROM orders")
        assert 0.5 < left < 1.6


async def test_an_open_breaker_of_any_process_is_told_in_readiness_and_status(settings):
    stripe = {"secret_key": "sk_test_0123456789", "webhook_secret": "whsec_0123456789abcdef"}
    told = settings.model_copy(
        update={
            "payments": settings.payments.model_copy(update={"provider": "stripe"}),
            "stripe": StripeSettings(**stripe),
        }
    )
    async with open_services(told, name="test") as services:
        turns = Turns("stripe", PostgresTurns(services.database), breaker(failures=2), rate_per_s=0, wait_s=1)
        seen = []
        for step in (turns.failed, turns.failed, turns.answered):
            await step()
            services.readiness._read_at = -math.inf
            condition, status = await services.readiness(), await services.status()
            seen.append((PROVIDER_AWAY in condition.notes, PROVIDER_AWAY in status.problems))
            assert PROVIDER_AWAY not in condition.problems, "the process can serve"
        assert seen == [(False, False), (True, True), (False, False)]


class Clock:
    at_s = 100.0

    def __call__(self):
        return self.at_s


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_call_try():
    clock = Clock()
    brk = breaker(clock)
    for _ in range(5):
        brk.failed()
        brk.failed()
        brk.answered()
    assert not brk.is_open
    for _ in range(3):
        brk.failed()
    assert (brk.is_open, brk.enter()) == (True, 5)
    brk.failed()  # a call that was under way
    assert brk.wait_s() == 5
    for pause_s in (10, 20, 20):
        clock.at_s += brk.wait_s()
        assert brk.enter() == 0
        assert brk.enter() == PROBE_S, "one call tries"
        brk.failed()
        assert brk.wait_s() == pause_s
    clock.at_s += brk.wait_s()
    assert brk.enter() == 0
    brk.answered()
    assert (brk.is_open, brk.enter()) == (False, 0)


def test_a_try_that_never_ends_gives_way_to_another():
    clock = Clock()
    brk = breaker(clock, failures=1)
    brk.failed()
    clock.at_s += 5
    assert brk.enter() == 0
    clock.at_s += PROBE_S
    assert brk.enter() == 0
