"""One refund raced by a webhook, by other administrators, by another worker and by a SIGKILL, at a real provider."""

import asyncio
import signal
import sys
from contextlib import asynccontextmanager

import pytest

from flashsale.adapters.payments.simulator import SimulatorGateway
from flashsale.domain.money import Money
from flashsale.domain.payments import Refund, RefundState
from tests.conftest import ROOT, of_this_checkout
from tests.faults.proxy import Proxy
from tests.support.charging import charging, free, waiting_order
from tests.support.gateway import SECRET, running
from tests.support.refunding import order_of, refunding, requesting

PRICE = 99_999
PART = "400.00"
CALL = b"/refunds HTTP"

FENCED = "r.number, r.attempt, p.sent, r.refund_key,"
EACH_TRY = "r.number, r.attempt, p.sent, r.refund_key || ':' || r.attempt,"
"""Without the guard: each try has a key of its own."""


@asynccontextmanager
async def paid(services):
    """An order of 999.99 that a real provider was paid, and a proxy before the provider."""
    async with running() as service, Proxy(service.url) as proxy:
        order_id, _ = await waiting_order(services)
        await charging(services, service.gateway)(order_id)
        yield order_id, service, proxy


@asynccontextmanager
async def worker(settings, proxy):
    """A payment worker in a process of its own, which calls the provider through the proxy."""
    environment = of_this_checkout(
        FLASHSALE_POSTGRES__URL=settings.postgres.url.get_secret_value(),
        FLASHSALE_REDIS__URL=settings.redis.url.get_secret_value(),
        FLASHSALE_PAYMENTS__GATEWAY_URL=proxy.url,
        FLASHSALE_PAYMENTS__GATEWAY_SECRET=SECRET,
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers", "payments", cwd=ROOT, env=environment, stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def killed(services, settings, proxy, order_id, trap):
    """Ask for a refund and kill the worker where the trap holds its conversation."""
    await requesting(services)(order_id, PART)
    async with worker(settings, proxy) as process:
        await trap.sprung()
        process.send_signal(signal.SIGKILL)
        await process.wait()
        trap.cut()


async def before_the_call(services, settings, order_id, service, proxy):
    await killed(services, settings, proxy, order_id, proxy.hold_request(CALL))
    await refunding(services, service.gateway)(order_id)


async def after_the_call(services, settings, order_id, service, proxy):
    await killed(services, settings, proxy, order_id, proxy.hold_reply(CALL))
    await refunding(services, service.gateway)(order_id)


async def webhook_first(services, settings, order_id, service, proxy):
    """The webhook's job looks the refund up and tells of it while the worker's own reply is on its way."""
    await requesting(services)(order_id, PART)
    trap = proxy.hold_reply(CALL)
    async with worker(settings, proxy):
        await trap.sprung()
        entry = await service.entry(str(order_id))
        told = Refund(
            reference="re_told",
            key=f"{order_id}:refund:1",
            intent="r",
            state=RefundState.SUCCEEDED,
            amount=Money(minor=entry.refunded_minor, currency="USD"),
            reason=None,
        )
        await asyncio.gather(*(refunding(services, service.gateway).note(order_id, [told]) for _ in range(3)))
        trap.release()
        await refunding(services, service.gateway)(order_id)


async def eight_administrators(services, settings, order_id, service, proxy):
    ask = requesting(services)
    await asyncio.gather(*(ask(order_id, PART) for _ in range(8)), return_exceptions=True)
    await refunding(services, service.gateway)(order_id)


async def eight_workers(services, settings, order_id, service, proxy):
    await requesting(services)(order_id, PART)
    await asyncio.gather(*(refunding(services, service.gateway)(order_id) for _ in range(8)))


RACES = (before_the_call, after_the_call, webhook_first, eight_administrators, eight_workers)


async def came_to(services, db, order_id, service):
    order = await order_of(services, order_id)
    entry = await service.entry(str(order_id))
    rows = await db.fetchval("SELECT count(*) FROM refunds")
    return rows, order.refunded_minor, entry.refunded_minor


def told(name, *came):
    line = " ".join(f"{one:>12}" for one in came)
    sys.stdout.write(f"{name:<34} {line}\n")


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
async def test_a_part_is_given_back_once_whatever_races_it(services, settings, db, race):
    async with paid(services) as (order_id, service, proxy):
        await race(services, settings, order_id, service, proxy)
        came = await came_to(services, db, order_id, service)
        told(race.__name__, *came, "once")
        assert came == (1, 40_000, 40_000)
        # And then the rest, with its units.
        await requesting(services)(order_id, restock=True)
        await asyncio.gather(*(refunding(services, service.gateway)(order_id) for _ in range(3)))
        assert await came_to(services, db, order_id, service) == (2, PRICE, PRICE)
        assert await free(db) == 10


async def replaced(db, name, old, new):
    source = (ROOT / "sql" / "functions" / f"{name}.sql").read_text()
    assert old in source
    await db.execute(source.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").replace(old, new))


async def test_control_with_a_new_key_for_each_try_a_worker_that_dies_gives_the_money_back_twice(services, db):
    await replaced(db, "begin_refund_v1", FENCED, EACH_TRY)
    async with (
        paid(services) as (order_id, service, proxy),
        SimulatorGateway(proxy.url, SECRET, connections_max=1) as through,
    ):
        await requesting(services)(order_id, PART)
        # In this process: a worker of its own does not start with a schema that is not its release's.
        trap = proxy.hold_reply(CALL)
        dying = asyncio.create_task(refunding(services, through)(order_id))
        await trap.sprung()
        dying.cancel()
        await asyncio.wait([dying])
        trap.cut()
        await refunding(services, service.gateway)(order_id)
        entry = await service.entry(str(order_id))
        told("control: a new key for each try", 1, "-", entry.refunded_minor, "twice")
        assert entry.refunded_minor == 80_000
        # So that the invariants hold afterwards.
        await db.execute("DELETE FROM refunds; UPDATE orders SET refunded_minor = 0")


async def test_control_without_the_rule_of_one_open_refund_each_administrator_makes_one(services, db):
    await replaced(db, "request_refund_v1", "THEN 'under_way'", "AND false THEN 'under_way'")
    await db.execute("DROP INDEX refunds_open")
    async with paid(services) as (order_id, _, _):
        ask = requesting(services)
        await asyncio.gather(*(ask(order_id, "100.00") for _ in range(4)), return_exceptions=True)
        rows = await db.fetchval("SELECT count(*) FROM refunds")
        told("control: many open refunds", rows, "-", "-", "four times")
        assert rows == 4
        await db.execute("DELETE FROM refunds")
