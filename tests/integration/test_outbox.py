"""What happens to orders and stock is told at least once and in order, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import uuid4

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.adapters.webhooks.sender import WebhookSender
from flashsale.domain.messages import MAILED, Event, Message, Target, body_of, pause_s
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome, NoAnswerKind, RefundState
from flashsale.domain.products import PaymentMode
from flashsale.settings.outbox import OutboxSettings
from flashsale.usecases.deliver import AWAY_AFTER, Deliver
from flashsale.usecases.tidy import Tidy
from tests.conftest import ROOT, add_buyers, add_product, assert_invariants, of_this_checkout
from tests.support.accepting import accept_one
from tests.support.charging import Gateway, charging, waiting_order
from tests.support.provider import paying
from tests.support.receiver import receiving
from tests.support.refunding import Provider, paid_order, refunding, requesting

SECRET = "whsec_" + "A" * 43 + "="
FAST = OutboxSettings(timeout_s=5, retry_s=0.001, retry_max_s=0.001, loopback_allowed=True)


@pytest.fixture
async def receiver():
    async with receiving() as opened:
        yield opened


@pytest.fixture
def outbox(services):
    return PostgresOutbox(services.database)


async def subscribe(outbox, receiver, *events, name="wh_a"):
    assert await outbox.add_endpoint(name, receiver.url, SECRET, events or list(Event), targets_max=20)


@asynccontextmanager
async def delivering(outbox, settings=FAST, mails=None, rows=None):
    async with WebhookSender(connections_max=100, loopback=settings.loopback_allowed) as sender:
        deliver = Deliver(rows or outbox, sender, mails, settings)
        yield deliver
        await deliver.close()


async def until_told(deliver, db):
    """Deliver until no message waits."""
    async with asyncio.timeout(60):
        while await db.fetchval("SELECT EXISTS (SELECT FROM outbox WHERE due_at IS NOT NULL)"):
            await deliver()
            await deliver.idle()


async def orders_that_end(services, count=1):
    """Make orders that wait for their payment; returns their ids."""
    product = await add_product(services, payment_mode=PaymentMode.BY_BUYER, allotment=100)
    users = await add_buyers(services, count)
    ids = [await accept_one(services, product, user) for user in users]
    await services.order_rows.process(ids, payment_due_s=30)
    return product, ids


async def cancel(services, *ids):
    await services.order_rows.end(sorted(ids), OrderStatus.CANCELLED)


async def test_an_event_of_a_newer_release_waits_for_it_and_delays_no_other(services, outbox, receiver, db):
    await subscribe(outbox, receiver)
    _, ids = await orders_that_end(services, 2)
    await cancel(services, *ids)
    change = "UPDATE outbox SET event = $2 WHERE order_id = $1"
    await db.execute(change, ids[0], "order.dreamt_of")
    async with delivering(outbox) as deliver:
        with capture_logs() as lines:
            await deliver()
            await deliver.idle()
    ((_, body),) = receiver.came
    assert json.loads(body)["data"]["orderId"] == str(ids[1])
    assert await db.fetchval("SELECT order_id FROM outbox WHERE due_at > now()") == ids[0]
    assert ["order.dreamt_of"] in [line.get("message_events") for line in lines]
    await db.execute(change, ids[0], Event.ORDER_CANCELLED)


async def test_many_events_of_a_newer_release_delay_no_other(services, outbox, receiver, db):
    await subscribe(outbox, receiver)
    _, ids = await orders_that_end(services, 3 * FAST.concurrency + 1)
    await cancel(services, *ids)
    newer = "UPDATE outbox SET event = 'order.dreamt_of', due_at = due_at - interval '1 minute' WHERE order_id <> $1"
    await db.execute(newer, ids[0])
    async with delivering(outbox) as deliver:
        await deliver()
        await deliver.idle()
    assert [json.loads(body)["data"]["orderId"] for _, body in receiver.came] == [str(ids[0])]
    await db.execute("UPDATE outbox SET event = $1 WHERE event = 'order.dreamt_of'", Event.ORDER_CANCELLED)


async def test_each_event_is_told_once_and_signed(services, outbox, receiver, db):
    await subscribe(outbox, receiver)
    product = await add_product(services, allotment=3, name="Phone ü")
    users = await add_buyers(services, 3)
    confirmed, declined, refunded = [await accept_one(services, product, user) for user in users]
    await services.order_rows.process(sorted([confirmed, declined, refunded]), payment_due_s=30)
    gateway = Gateway(ChargeOutcome.CAPTURED, ChargeOutcome.DECLINED, ChargeOutcome.CAPTURED)
    charge = charging(services, gateway)
    for order_id in (confirmed, declined, refunded):
        await charge(order_id)
    by_buyer, (cancelled, expired) = await orders_that_end(services, 2)
    await cancel(services, cancelled)
    await db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", expired)
    await services.order_rows.end([expired], OrderStatus.EXPIRED)
    await requesting(services)(refunded)
    await refunding(services, Provider())(refunded)
    async with delivering(outbox) as deliver:
        await until_told(deliver, db)
    told = {}
    for headers, body, _ in receiver.got:
        assert headers["Content-Type"] == "application/json"
        content = Webhook(SECRET).verify(body, headers)
        told.setdefault(content["type"], []).append(content)
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body + b" ", headers)
    assert {name: len(content) for name, content in told.items()} == {
        "order.confirmed": 2, "order.payment_failed": 1, "order.expired": 1, "order.cancelled": 1, "order.refunded": 1,
        "stock.sold_out": 1,
    }  # fmt: skip
    first = next(one for one in told["order.confirmed"] if one["data"]["orderId"] == str(confirmed))
    assert first["version"] == 1
    data = first["data"]
    assert (data["price"], data["totalPrice"], data["currency"], data["quantity"]) == ("999.99", "999.99", "USD", 1)
    assert (data["productName"], data["status"], data["userId"]) == ("Phone ü", "confirmed", str(users[0]))
    assert told["stock.sold_out"][0]["data"]["productId"] == product.product_id
    assert told["order.expired"][0]["data"]["productId"] == by_buyer.product_id
    assert len(set(receiver.ids)) == len(receiver.ids)


async def test_each_part_that_is_given_back_is_told_with_its_amount(services, outbox, receiver, db):
    await subscribe(outbox, receiver, Event.ORDER_CONFIRMED, Event.ORDER_REFUNDED)
    await outbox.tell_buyers(MAILED)
    order_id, _ = await paid_order(services)
    ask, make = requesting(services), refunding(services, Provider())
    for amount in ("100.00", "0.99", None):
        await ask(order_id, amount)
        await make(order_id)
    assert await db.fetchval("SELECT count(*) FROM outbox WHERE target_id = 'mail'") == 4
    assert await outbox.remove_endpoint("mail")
    async with delivering(outbox) as deliver:
        await until_told(deliver, db)
    told = [json.loads(body) for _, body in receiver.came]
    assert [one["type"] for one in told] == ["order.confirmed"] + ["order.refunded"] * 3
    assert [(one["data"]["status"], one["data"]["refund"], one["data"]["refunded"]) for one in told[1:]] == [
        ("confirmed", "100.00", "100.00"), ("confirmed", "0.99", "100.99"), ("refunded", "899.00", "999.99"),
    ]  # fmt: skip


async def test_a_refund_that_fails_is_not_told(services, outbox, receiver, db):
    await subscribe(outbox, receiver, Event.ORDER_CONFIRMED, Event.ORDER_REFUNDED)
    order_id, _ = await paid_order(services)
    ask = requesting(services)
    make = refunding(services, Provider(RefundState.SUCCEEDED, RefundState.FAILED, NoAnswerKind.REFUSED))
    for amount in ("100.00", None, None, None):
        await ask(order_id, amount)
        await make(order_id)
    async with delivering(outbox) as deliver:
        await until_told(deliver, db)
    moves = await db.fetch("SELECT status FROM order_events WHERE order_id = $1 ORDER BY version", order_id)
    assert [row["status"] for row in moves].count("confirmed") == 3, "two refunds failed"
    told = [json.loads(body) for _, body in receiver.came]
    assert [(one["type"], one["data"].get("refund")) for one in told] == [
        ("order.confirmed", None), ("order.refunded", "100.00"), ("order.refunded", "899.99"),
    ]  # fmt: skip
    await db.execute(
        "UPDATE outbox_targets SET wanted_since = wanted_since - interval '1 hour', created_at = created_at - interval '1 hour'"
    )
    await assert_invariants(services.database)


async def test_money_that_came_too_late_is_told_once_it_is_given_back(services, outbox, receiver, db):
    await subscribe(outbox, receiver, Event.ORDER_REFUNDED)
    order_id, _ = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER)
    pays = paying(services)
    intent = await pays.open(order_id)
    await db.execute("UPDATE orders SET due_at = clock_timestamp()")
    await services.order_rows.end([order_id], OrderStatus.EXPIRED)
    pays.provider.capture(intent.reference)
    for number in range(3):
        await pays.tell(f"evt_{number}", intent.reference)
    await pays.settle_all(db)
    async with delivering(outbox) as deliver:
        await until_told(deliver, db)
    ((_, body),) = receiver.came
    data = json.loads(body)["data"]
    assert (data["status"], data["refund"], data["unused"]) == ("expired", "999.99", True)


async def test_only_what_somebody_wants_is_written(services, outbox, receiver, db):
    _, (first, second, third) = await orders_that_end(services, 3)
    await cancel(services, first)
    assert await db.fetchval("SELECT count(*) FROM outbox") == 0
    await subscribe(outbox, receiver, Event.ORDER_CONFIRMED)
    await cancel(services, second)
    assert await db.fetchval("SELECT count(*) FROM outbox") == 0
    await outbox.tell_buyers(MAILED)
    await subscribe(outbox, receiver, Event.ORDER_CANCELLED, name="wh_b")
    await cancel(services, third)
    rows = await db.fetch("SELECT target_id, event, order_id FROM outbox")
    assert [tuple(row) for row in rows] == [("wh_b", "order.cancelled", third)]


async def test_a_change_that_is_rolled_back_is_not_told(services, outbox, receiver, db):
    await subscribe(outbox, receiver)
    _, (order_id,) = await orders_that_end(services)
    transaction = db.transaction()
    await transaction.start()
    await db.execute("UPDATE orders SET status = 'cancelled', due_at = NULL WHERE order_id = $1", order_id)
    assert await db.fetchval("SELECT count(*) FROM outbox") == 1
    await transaction.rollback()
    assert await db.fetchval("SELECT count(*) FROM outbox") == 0


@pytest.mark.parametrize("answer", [500, 404, 429, 302, "cut", "hang"])
async def test_a_message_that_failed_is_sent_again_under_its_id(services, outbox, receiver, db, answer):
    await subscribe(outbox, receiver)
    _, (order_id,) = await orders_that_end(services)
    receiver.answers = [answer, answer]
    await cancel(services, order_id)
    settings = FAST.model_copy(update={"timeout_s": 0.3}) if answer == "hang" else FAST
    async with delivering(outbox, settings) as deliver:
        await until_told(deliver, db)
    assert len(receiver.ids) == 3
    assert len(set(receiver.ids)) == len({body for _, body, _ in receiver.got}) == 1, "the same bytes each time"
    assert {path for _, _, path in receiver.got} == {"/hooks"}, "redirects are not followed"
    assert await db.fetchval("SELECT outcome || attempts FROM outbox") == "delivered3"


@pytest.mark.parametrize("asked", ["1", "a date", "86400"])
async def test_an_endpoint_that_asks_for_time_gets_it_within_bounds(services, outbox, receiver, db, asked):
    await subscribe(outbox, receiver)
    _, ids = await orders_that_end(services, 2)
    await cancel(services, *ids)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    receiver.headers = {"Retry-After": format_datetime(until, usegmt=True) if asked == "a date" else asked}
    receiver.answers = [503, 429]
    settings = FAST.model_copy(update={"retry_max_s": 2.0})
    async with delivering(outbox, settings) as deliver:
        await deliver()
        await deliver.idle()
        tried = len(receiver.got)
        waits = await db.fetch(
            "SELECT extract(EPOCH FROM due_at - clock_timestamp()) AS s FROM outbox WHERE attempts > 0"
        )
        assert all({"1": 0.2, "a date": 0.5, "86400": 1.2}[asked] < row["s"] < 3.5 for row in waits), (
            "at most 2 s, and luck"
        )
        await deliver()
        await deliver.idle()
        assert len(receiver.got) == tried, "nothing more is sent to it meanwhile"
        await until_told(deliver, db)
    assert len(set(receiver.ids)) == 2


async def test_messages_of_an_order_arrive_in_the_order_of_its_changes(services, outbox, receiver, db):
    await subscribe(outbox, receiver)
    _, ids = await orders_that_end(services, 5)
    await cancel(services, *ids)
    # A second change of each, as if it had been refunded.
    await db.execute(
        "INSERT INTO outbox (target_id, event, order_id, order_version, product_id, facts)"
        " SELECT target_id, 'order.refunded', order_id, order_version + 1, product_id, facts FROM outbox"
    )
    shuffled = random.Random(1)
    receiver.answers = [shuffled.choice([500, 204, "cut"]) for _ in range(25)]
    async with delivering(outbox) as one, delivering(PostgresOutbox(services.database)) as other:
        async with asyncio.timeout(60):
            while await db.fetchval("SELECT EXISTS (SELECT FROM outbox WHERE due_at IS NOT NULL)"):
                await asyncio.gather(one(), other())
                await asyncio.gather(one.idle(), other.idle())
    for order_id in ids:
        types = [json.loads(body)["type"] for _, body, _ in receiver.got if str(order_id).encode() in body]
        assert types == sorted(types), "cancelled, again and again until it arrived, then refunded"
        assert types[-1] == "order.refunded"
    await db.execute("DELETE FROM outbox WHERE event = 'order.refunded'")


async def test_several_workers_send_each_message_once(services, outbox, receiver, db):
    await subscribe(outbox, receiver)
    _, ids = await orders_that_end(services, 30)
    await cancel(services, *ids)
    async with delivering(outbox) as one, delivering(outbox) as two, delivering(outbox) as three:
        await asyncio.gather(one(), two(), three())
        await asyncio.gather(one.idle(), two.idle(), three.idle())
    assert len(receiver.ids) == len(set(receiver.ids)) == 30
    assert await db.fetchval("SELECT count(*) FROM outbox WHERE outcome = 'delivered'") == 30


async def test_an_endpoint_that_hangs_delays_no_other_and_gets_one_message_at_a_time(services, outbox, receiver, db):
    async with receiving() as slow:
        await subscribe(outbox, slow, name="wh_slow")
        await subscribe(outbox, receiver, name="wh_fine")
        slow.answers = ["hang"] * 1000
        _, ids = await orders_that_end(services, 20)
        await cancel(services, *ids)
        settings = FAST.model_copy(update={"timeout_s": 1.0, "retry_s": 600, "retry_max_s": 600})
        async with delivering(outbox, settings) as deliver:
            await deliver()
            await receiver.arrived(20)
            assert len(slow.got) <= settings.concurrency, "the others were told while the first tries hang"
            _, more = await orders_that_end(services, 5)
            await cancel(services, *more)
            await deliver()
            await receiver.arrived(25)
            before = len(slow.got)
            assert deliver._failures.get("wh_slow", 0) < AWAY_AFTER
            await slow.arrived(settings.concurrency + 1)
            assert deliver._failures["wh_slow"] >= AWAY_AFTER
            assert len(slow.got) - before == 1
    assert await db.fetchval("SELECT count(*) FROM outbox WHERE target_id = 'wh_fine' AND outcome = 'delivered'") == 25


DIES_AFTER_DELIVERY = """
import asyncio, os, signal
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.bootstrap.jobs import open_jobs
from flashsale.settings import read_settings

async def dies(self, message, outcome, problem):
    os.kill(os.getpid(), signal.SIGKILL)

PostgresOutbox.end = dies

async def main():
    async with open_jobs(read_settings("maintenance"), name="dies") as jobs:
        await jobs.deliver()
        await jobs.deliver.idle()

asyncio.run(main())
"""


async def test_a_worker_killed_between_delivery_and_commit_delivers_again_under_the_same_id(
    services, settings, outbox, receiver, db
):
    await subscribe(outbox, receiver)
    _, (order_id,) = await orders_that_end(services)
    await cancel(services, order_id)
    environment = of_this_checkout(
        FLASHSALE_POSTGRES__URL=settings.postgres.url.get_secret_value(),
        FLASHSALE_REDIS__URL=settings.redis.url.get_secret_value(),
        FLASHSALE_OUTBOX__LOOPBACK_ALLOWED="true",
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DIES_AFTER_DELIVERY, env=environment, stderr=subprocess.PIPE
    )
    _, errors = await child.communicate()
    assert child.returncode == -signal.SIGKILL, errors.decode()
    assert len(receiver.got) == 1
    async with delivering(outbox) as deliver:
        await deliver()
        await deliver.idle()
        assert len(receiver.got) == 1, "its lease has not ended"
        await db.execute("UPDATE outbox SET due_at = clock_timestamp()")
        await until_told(deliver, db)
    assert len(receiver.got) == 2
    assert len(set(receiver.ids)) == 1


async def test_a_late_end_of_an_earlier_try_changes_nothing(services, outbox, receiver, db):
    await subscribe(outbox, receiver)
    _, (order_id,) = await orders_that_end(services)
    await cancel(services, order_id)
    [first] = await outbox.claim("wh_a", limit=10, lease_s=0)
    [second] = await outbox.claim("wh_a", limit=10, lease_s=60)
    assert (first.message_id, first.attempts, second.attempts) == (second.message_id, 1, 2)
    await outbox.end(first, "dead", "late")
    await outbox.postpone(first, "late", pause_s=0, give_up_s=100)
    assert await outbox.claim("wh_a", limit=10, lease_s=0) == []
    await outbox.end(second, "delivered", None)
    assert await db.fetchval("SELECT outcome FROM outbox") == "delivered"


async def test_a_message_that_was_given_up_is_dead_until_it_is_sent_again(services, outbox, receiver, db):
    await subscribe(outbox, receiver)
    _, (first, second) = await orders_that_end(services, 2)
    receiver.answers = [500, 500]
    await cancel(services, first, second)
    async with delivering(outbox, FAST.model_copy(update={"give_up_s": 0.0})) as deliver:
        await until_told(deliver, db)
    assert {one.problem for one in await outbox.dead(None, limit=10)} == {"The endpoint answered 500."}
    [listed] = await outbox.targets()
    assert (listed.waiting, listed.dead) == (0, 2)
    assert SECRET not in repr(listed)
    one = (await outbox.dead("wh_a", limit=1))[0]
    assert await outbox.resend(message_id=one.message_id) == 1
    assert await outbox.resend(target_id="wh_a") == 1
    assert await outbox.resend(target_id="wh_a") == 0
    async with delivering(outbox) as deliver:
        await until_told(deliver, db)
    assert sorted(receiver.ids[:2]) == sorted(receiver.ids[2:]), "under the same ids"


AGED = "UPDATE outbox SET created_at = created_at - interval '4 days'"
YOUNG_AGAIN = (
    "UPDATE outbox SET created_at = created_at + interval '4 days' WHERE created_at < now() - interval '1 day'"
)
"""The audit compares when a message was written."""


async def test_messages_of_a_target_that_is_away_end_in_time_though_it_gets_few_tries(services, outbox, receiver, db):
    """It asks for an hour after each try: the messages that it is sent meanwhile must not wait for years."""
    await subscribe(outbox, receiver, name="wh_away")
    _, old = await orders_that_end(services, 3 * FAST.concurrency)
    await cancel(services, *old)
    await db.execute(AGED)
    _, (young,) = await orders_that_end(services)
    await cancel(services, young)
    receiver.answers, receiver.headers = [503] * 1000, {"Retry-After": "3600"}
    async with delivering(outbox, FAST.model_copy(update={"retry_max_s": 3600.0})) as deliver:
        await deliver()
        await deliver.idle()
    assert len(receiver.got) == FAST.concurrency, "more tries would not respect what the target asks for"
    [listed] = await outbox.targets()
    assert (listed.waiting, listed.dead) == (1, len(old))
    assert await db.fetchval("SELECT order_id FROM outbox WHERE due_at IS NOT NULL") == young
    assert await outbox.resend(target_id="wh_away") == len(old)
    receiver.answers, receiver.headers = [], {}
    async with delivering(outbox) as deliver:
        await until_told(deliver, db)
    assert len(set(receiver.ids)) == len(old) + 1, "none is lost"
    await db.execute(YOUNG_AGAIN)


async def test_old_messages_are_told_after_an_outage_of_the_workers(services, outbox, receiver, db):
    await subscribe(outbox, receiver)
    _, ids = await orders_that_end(services, 2 * FAST.concurrency)
    await cancel(services, *ids)
    await db.execute(AGED)
    receiver.answers = [500]
    async with delivering(outbox) as deliver:
        await until_told(deliver, db)
    [listed] = await outbox.targets()
    assert listed.dead == 1, "one failed; the target is not away"
    await db.execute(YOUNG_AGAIN)


async def test_a_product_that_sells_out_many_times_is_told_once_at_a_time(services, outbox, receiver, db):
    await subscribe(outbox, receiver, Event.STOCK_SOLD_OUT)
    product = await add_product(services, allotment=1, payment_mode=PaymentMode.BY_BUYER)
    for _ in range(3):
        order_id = await accept_one(services, product, (await add_buyers(services, 1))[0])
        await services.order_rows.process([order_id], payment_due_s=30)
        await cancel(services, order_id)
    assert await db.fetchval("SELECT count(*) FROM outbox") == 1
    async with delivering(outbox) as deliver:
        await until_told(deliver, db)
        await accept_one(services, product, (await add_buyers(services, 1))[0])
        await until_told(deliver, db)
    assert [json.loads(body)["data"]["productName"] for _, body, _ in receiver.got] == ["Phone", "Phone"]


async def test_what_was_told_goes_after_its_time_and_orphans_after_an_hour(services, outbox, receiver, db):
    await subscribe(outbox, receiver, name="wh_a")
    _, ids = await orders_that_end(services, 5)
    await cancel(services, *ids)
    settings = OutboxSettings()
    ages = {"delivered": (settings.kept_s, 60), "dead": (settings.dead_kept_s, 60)}
    kinds = [(outcome, age_s + more_s) for outcome, (age_s, more_s) in ages.items() for more_s in (-60, 60)]
    for order_id, (outcome, age_s) in zip(ids, kinds, strict=False):
        await db.execute(
            "UPDATE outbox SET due_at = NULL, outcome = $2, ended_at = clock_timestamp() - $3 * interval '1 s' WHERE order_id = $1",
            order_id, outcome, age_s,
        )  # fmt: skip
    await db.execute(
        "UPDATE outbox SET target_id = 'wh_gone', due_at = clock_timestamp() - interval '2 h' WHERE order_id = $1",
        ids[4],
    )
    await Tidy(PostgresUpkeep(services.database), settings)()
    left = await db.fetch("SELECT outcome, order_id FROM outbox ORDER BY outcome")
    assert [row["outcome"] for row in left] == ["dead", "delivered"]
    await outbox.remove_endpoint("wh_a")
    assert await db.fetchval("SELECT count(*) FROM outbox") == 0, "they go with their endpoint"


def test_pauses_double_to_their_limit_and_differ():
    for attempts in range(1, 200):
        pauses = [pause_s(attempts, first_s=5, longest_s=3600, luck=luck / 10) for luck in range(11)]
        middle = min(5 * 2 ** (attempts - 1), 3600)
        assert (pauses[0], pauses[-1]) == (middle / 2, middle * 1.5)
        assert len(set(pauses)) == 11


# --- addresses ------------------------------------------------------------------------------------------------------


def a_message():
    facts = {"product_id": 1, "product_name": "Phone", "stock_version": 2}
    return Message(
        message_id=uuid4(),
        event=Event.STOCK_SOLD_OUT,
        order_id=None,
        facts=facts,
        created_at=datetime.now(UTC),
        attempts=1,
    )


HOSTS = (
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0.0.0.0", "0",  # noqa: S104
    "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]",
    "127.255.255.254", "[::127.0.0.1]",
)  # fmt: skip


async def test_no_notation_of_this_machine_is_connected_to(receiver):
    async with WebhookSender(connections_max=10, loopback=False) as sender:
        for host in HOSTS:
            target = Target(target_id="wh_a", url=f"http://{host}:{receiver.port}/hooks", secret=SECRET)
            failure = await sender.send(target, a_message())
            assert failure is not None, host
    assert receiver.got == []
    async with WebhookSender(connections_max=10, loopback=True) as sender:
        target = Target(target_id="wh_a", url=receiver.url, secret=SECRET)
        assert await sender.send(target, a_message()) is None
    assert len(receiver.got) == 1, "the control arrives"


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["169.254.169.254"]]
)
async def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(receiver, monkeypatch, addresses):
    """Also the second time, after a name was public when it was looked at first: the socket is what is checked."""
    asked = []

    async def resolve(host, port, **_):
        asked.append(host)
        families = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", (one, receiver.port, 0, 0)[: 4 if ":" in one else 2])
            for family, one in zip(families, addresses, strict=True)
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    target = Target(target_id="wh_a", url=f"http://shop.example:{receiver.port}/hooks", secret=SECRET)
    async with WebhookSender(connections_max=10, loopback=False) as sender:
        failure = await sender.send(target, a_message())
    assert failure.problem == "The endpoint's name leads to an address that is not public."
    assert (asked, receiver.got) == (["shop.example"], [])


def test_a_target_shows_no_secret():
    assert SECRET not in repr(Target(target_id="wh_a", url="https://shop.example/", secret=SECRET))


# --- command line ---------------------------------------------------------------------------------------------------


async def test_endpoints_are_managed_by_commands(services, settings, outbox, receiver, db):
    environment = of_this_checkout(
        FLASHSALE_POSTGRES__URL=settings.postgres.url.get_secret_value(), FLASHSALE_OUTBOX__LOOPBACK_ALLOWED="true"
    )

    async def run(*arguments):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flashsale.cli", "webhooks", *arguments,
            env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, errors = await child.communicate()
        return child.returncode, out.decode(), errors.decode()

    added, private, unknown, neither = await asyncio.gather(
        run("add", receiver.url, "--event", "order.cancelled"),
        run("add", "https://10.0.0.1/"),
        run("remove", "wh_unknown"),
        run("resend"),
    )
    assert added[0] == 0, added
    name, secret = (line.split()[1] for line in added[1].splitlines())
    for code, out, errors in (private, unknown, neither):
        assert (code, out, errors.count("\n")) == (1, "", 1), errors
    _, (order_id,) = await orders_that_end(services)
    receiver.answers = [500]
    await cancel(services, order_id)
    async with delivering(outbox, FAST.model_copy(update={"give_up_s": 0.0})) as deliver:
        await until_told(deliver, db)
    listed, dead = await asyncio.gather(run("list"), run("dead", "--endpoint", name))
    assert name in listed[1]
    assert "0 waiting, 1 dead: The endpoint answered 500." in listed[1]
    assert secret not in listed[1]
    assert str(order_id) in dead[1]
    assert (await run("resend", "--endpoint", name))[1] == "1 sent again\n"
    async with delivering(outbox) as deliver:
        await until_told(deliver, db)
    assert Webhook(secret).verify(receiver.got[-1][1], receiver.got[-1][0])["type"] == "order.cancelled"
    assert (await run("remove", name))[:2] == (0, f"removed {name}\n")
    assert await db.fetchval("SELECT count(*) FROM outbox_targets") == 0


def test_the_documented_verification_takes_what_is_sent_and_nothing_else():
    page = (ROOT / "docs/reference/webhooks.md").read_text()
    [code] = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    documented = {}
    exec(code, documented)  # noqa: S102 - the document's own
    body = body_of(a_message())
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("msg_1", now, body.decode()),
    }
    assert documented["take"](SECRET, headers, body)["type"] == "stock.sold_out"
    for wrong in ({"webhook-id": "msg_2"}, {"webhook-timestamp": "1"}, {"webhook-signature": "v1,AAAA"}):
        with pytest.raises(WebhookVerificationError):
            documented["take"](SECRET, {**headers, **wrong}, body)
    assert {event.value for event in Event} == set(re.findall(r"^\| `(\w+\.\w+)` \|", page, re.MULTILINE))
