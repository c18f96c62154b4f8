"""With a synchronous standby nobody is told of a change that only the primary has.

The standby of these tests never confirms anything: `synchronous_standby_names` names one that does not exist. A wait for it
that is cut short leaves the change on the primary alone, as `pg_cancel_backend`, a crash or a restart of the primary does.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from urllib.parse import urlsplit

import asyncpg
import pytest

from flashsale.adapters.postgres import database, unanswered
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.health import PostgresHealth
from flashsale.adapters.postgres.intents import PostgresIntents
from flashsale.adapters.postgres.products import PostgresProducts
from flashsale.adapters.postgres.queries import Query
from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.bootstrap.api import open_services
from flashsale.domain.errors import OutcomeUnknown, Unavailable
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome, Intent, IntentState, ProviderEvent
from flashsale.domain.products import NewProduct, PaymentMode
from flashsale.domain.refunds import WantedRefund
from flashsale.domain.requests import AdminRequest
from flashsale.settings.groups import PostgresSettings
from tests.conftest import add_buyers, add_product, make_settings
from tests.support.charging import Gateway, charging
from tests.support.gates import ask
from tests.support.manual import recording
from tests.support.orders import orders_of, unpaid
from tests.support.unguarded import take_the_guards_away

NO_SERVER = "127.0.0.1:1"
QUICK = {"statement_timeout_s": 0.6, "lock_timeout_s": 0.1, "pool_max": 8}


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    """A statement is given up soon after the server would have ended it."""
    monkeypatch.setattr(database, "GRACE_S", 0.1)


WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOT_CONFIRMED = (Unavailable, OutcomeUnknown)


class Standby:
    """The primary's notion of its standby, which a test takes away and gives back."""

    def __init__(self, db, committing):
        self.db, self._committing = db, committing

    async def goes_away(self):
        """Return once COMMITs wait: the checkpointer tells all sessions, later than one of them shows the setting."""
        await self._name("nobody")
        pid, waiting = self._committing.get_server_pid(), False
        while not waiting:
            commit = asyncio.create_task(self._committing.execute("SELECT pg_logical_emit_message(true, '', '')"))
            while not (waiting or commit.done()):
                waiting = pid in await self.until_waiting(0)
            if waiting:
                await self.db.execute("SELECT pg_cancel_backend($1)", pid)
            await commit

    async def comes_back(self):
        """Release every wait, as a standby that has caught up does."""
        await self._name("")

    async def _name(self, names):
        await self.db.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await self.db.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(60):
            while await self.db.fetchval("SHOW synchronous_standby_names") != names:
                await asyncio.sleep(0.005)

    async def until_waiting(self, commits=1):
        async with asyncio.timeout(60):
            while len(waiting := await self.db.fetch(WAITING)) < commits:
                await asyncio.sleep(0.005)
        return [row["pid"] for row in waiting]

    @asynccontextmanager
    async def cut_short(self):
        """Cut every wait short, which commits on the primary alone."""

        async def cut():
            while True:
                for pid in await self.until_waiting(0):
                    await self.db.execute("SELECT pg_cancel_backend($1)", pid)
                await asyncio.sleep(0.005)

        cutting = asyncio.create_task(cut())
        try:
            yield
        finally:
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)


@pytest.fixture
async def standby(postgres_url):
    connection = await asyncpg.connect(postgres_url, server_settings={"synchronous_commit": "local"})
    committing = await asyncpg.connect(postgres_url)
    try:
        standby = Standby(connection, committing)
        yield standby
    finally:
        await standby.comes_back()
        await connection.close()
        await committing.close()


@pytest.fixture
async def selling(standby, postgres_url, valkey, redis):
    async with open_services(
        make_settings(postgres_url, valkey.url, postgres={"url": postgres_url, **QUICK})
    ) as opened:
        yield opened
        # Before the services end, whose last statements would wait.
        await standby.comes_back()


async def test_no_time_out_and_no_buyer_who_leaves_cancels_a_commit(selling, standby, db):
    product = await add_product(selling)
    user = (await add_buyers(selling, 1))[0]
    await standby.goes_away()
    request = ask(product, user, key="k")
    # Of COMMITs that notify, one waits at a time, so the one who leaves does something else.
    leaving = asyncio.create_task(selling.users.create_buyers(1, prefix="leaving"))
    await standby.until_waiting()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    with pytest.raises(Unavailable):
        await selling.buy(request)
    assert len(await standby.until_waiting(2)) == 2, "given up by their callers, and still there"
    made = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM users WHERE email LIKE 'leaving%')"
    assert tuple(await db.fetchrow(made)) == (0, 0), "what the standby lacks is seen by nobody"
    await standby.comes_back()
    async with asyncio.timeout(60):
        while tuple(await db.fetchrow(made)) != (1, 1):
            await asyncio.sleep(0.01)
    again = await selling.buy(request)
    assert await db.fetchval("SELECT user_id FROM orders WHERE order_id = $1", again.order_id) == user


@pytest.mark.parametrize("how", ["cancel", "terminate"])
async def test_an_order_on_the_primary_alone_is_not_answered_202_and_neither_is_its_repetition(
    selling, standby, db, how
):
    told, accepted, repeated = await order_on_the_primary_alone(selling, standby, how)
    assert await db.fetchval("SELECT count(*) FROM orders") == 1, "the primary has it"
    assert told == ["unknown", "unknown", "unknown"]
    await standby.comes_back()
    assert (await repeated()).order_id == await db.fetchval("SELECT order_id FROM orders")
    assert accepted is None


@pytest.mark.parametrize("how", ["cancel", "terminate"])
async def test_the_control_without_the_guards_answers_202_for_an_order_that_a_failover_loses(
    selling, standby, monkeypatch, how
):
    take_the_guards_away(monkeypatch)
    told, accepted, _ = await order_on_the_primary_alone(selling, standby, how)
    assert accepted is not None
    assert told == ["told", "told", "told"]


async def order_on_the_primary_alone(services, standby, how):
    """Cut the wait of an accept short: what its buyer, a repetition and a refusal that looks first are told."""
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    request = ask(product, user, key="k")
    await standby.goes_away()
    buying = asyncio.create_task(services.buy(request))
    [pid] = await standby.until_waiting()
    await standby.db.execute(f"SELECT pg_{how}_backend({pid})")

    def look():
        return services.buy.confirm.refuse(request, OutcomeUnknown("refused"))

    async with standby.cut_short():
        accepted = await outcome(buying)
        answers = [accepted, await outcome(services.buy(request)), await outcome(look())]
    told = ["unknown" if answer is None else "told" for answer in answers]
    return told, accepted, lambda: services.buy(request)


async def outcome(doing):
    try:
        return await doing
    except NOT_CONFIRMED:
        return None


# --- every other change that somebody is told of --------------------------------------------------------------------


async def changes(services):
    """Every change whose repetition finds it made, by name: a call that may be repeated."""
    rows = services.order_rows
    _, (to_cancel, to_pay, to_record, to_open) = await unpaid(services, 4)
    sold, (refunded, given_back, _) = await paid(services, 3)
    admin = (await services.users.create_buyers(1, prefix="staff"))[0]
    owner = (await rows.get_many([refunded]))[refunded].user_id
    changed = PostgresProducts(services.database)
    refunds = PostgresRefunds(services.database)
    provider = PostgresIntents(services.database)
    event = ProviderEvent(event_id="evt_1", type="payment_intent.succeeded", reference="pi_1", created_at=NOW)

    def key(name):
        return AdminRequest(user_id=admin, key=name, fingerprint=name.encode().ljust(16), action=name, origin="here")

    async def open_intent():
        begun = await provider.begin(to_open, "test", due_s=30)
        if begun.intent.reference is None:
            intent = Intent(
                reference="pi_2",
                order_id=to_open,
                state=IntentState.OPEN,
                amount=begun.amount,
                refunded_minor=0,
                disputed=False,
                client_secret="secret",
                page_url=None,
                decline_code=None,
                created_at=NOW,
            )
            await provider.open(to_open, begun.intent.number, intent, due_s=30)

    new = NewProduct(
        name="Case",
        price=Money(minor=100, currency="USD"),
        allotment=1,
        payment_mode=PaymentMode.AUTOMATIC,
        payment_window_s=300,
        limit_per_buyer=None,
        starts_at=None,
        ends_at=None,
    )
    by_admin = WantedRefund(order_id=given_back, amount_minor=None, restock=False, reason="broken", requested_by=admin)
    return {
        "a buyer cancels": lambda: rows.end([to_cancel], OrderStatus.CANCELLED),
        "a buyer pays": lambda: rows.request_payment(to_pay, due_s=30),
        "a buyer's intent": open_intent,
        "a buyer's refund": lambda: refunds.request_own(refunded, owner, due_s=30),
        "an operator's payment": lambda: recording(services).payment(
            to_record, reference="t-1", amount="999.99", currency="USD", recorded_by=admin, request=key("record")
        ),
        "an administrator's refund": lambda: refunds.request(by_admin, due_s=30, request=key("refund")),
        "a new product": lambda: changed.create(new, key("create")),
        "an allotment": lambda: changed.set_allotment(sold.product_id, 7),
        "an allotment under a key": lambda: changed.change_allotment(sold.product_id, 1, key("add")),
        "a closed sale": lambda: changed.close(sold.product_id, key("close")),
        "a webhook": lambda: provider.receive("test", event, due_s=30),
    }


async def paid(services, count):
    product = await add_product(services, allotment=count, refundable_by_buyer=True)
    orders = await orders_of(services, product, await add_buyers(services, count))
    await services.order_rows.process(orders, payment_due_s=30)
    await asyncio.gather(*(charging(services, Gateway(ChargeOutcome.CAPTURED))(order_id) for order_id in orders))
    return product, orders


async def test_no_repetition_is_told_what_the_primary_alone_has(selling, standby):
    made = await changes(selling)
    await standby.goes_away()
    async with standby.cut_short():
        told = [name for name, change in made.items() for _ in range(2) if await confirms(change)]
    assert not told
    await standby.comes_back()
    assert [name for name, change in made.items() if not await confirms(change)] == []


async def test_the_control_without_the_guards_tells_every_repetition(selling, standby, monkeypatch):
    made = await changes(selling)
    take_the_guards_away(monkeypatch)
    await standby.goes_away()
    async with standby.cut_short():
        told = [name for name, change in made.items() if await confirms(change) and await confirms(change)]
    assert told == [*made]


async def confirms(change):
    try:
        await change()
    except NOT_CONFIRMED:
        return False
    return True


# --- while the standby is away ----------------------------------------------------------------------------------------

WRITE = Query(name="write", description="", text="INSERT INTO written DEFAULT VALUES", reads=False)
READ = Query(name="read", description="", text="SELECT count(*) FROM written", reads=True)


WAIT_FOR_LOCK = """
SELECT count(*) FROM pg_locks AS l INNER JOIN pg_database AS d ON l.database = d.oid
WHERE NOT l.granted AND d.datname = current_database() AND l.relation = 'written'::regclass
"""
"""Not `pg_stat_activity`, of which a transaction sees the first look again and again."""

POOLED = pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
"""Through a pooler a process does not know its sessions."""


@POOLED
async def test_while_half_of_the_pool_waits_writes_are_refused_at_once_and_reads_go_on(standby, postgres_url, pooled):
    pool = await small_pool(postgres_url, pooled=pooled, statement_timeout_s=0.6)
    await standby.db.execute("CREATE TABLE written (at timestamptz DEFAULT now())")
    await standby.goes_away()
    given_up = await asyncio.gather(*(pool.fetch(WRITE) for _ in range(2)), return_exceptions=True)
    assert [type(error) for error in given_up] == [Unavailable, Unavailable]
    async with asyncio.timeout(60):
        while not (pool.waits_for_standby and all(one.looked for one in pool._unanswered._kept.values())):
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable, match="does not confirm"):
        await pool.fetch(WRITE)
    assert (await pool.fetch(READ))[0][0] == 0
    [answers, problem] = await PostgresHealth(pool).problem()
    assert answers
    assert "standby" in problem.what
    assert len(await standby.until_waiting()) == 2
    await standby.comes_back()
    await until_confirmed(pool)
    await pool.fetch(WRITE)
    assert (await pool.fetch(READ))[0][0] == 3
    assert pool.size[0] <= 4
    await pool.close()


async def small_pool(url, *, pooled, **settings):
    """Open a pool of four connections, two of which are half."""
    pool = Database(PostgresSettings(url=url, direct_url=url if pooled else "", pool_max=4, **settings), name="waiting")
    await pool.open()
    return pool


@POOLED
async def test_writes_that_wait_for_a_lock_do_not_count_as_writes_that_wait_for_the_standby(
    db, postgres_url, monkeypatch, pooled
):
    monkeypatch.setattr(unanswered, "OVERDUE_S", 0)
    pool = await small_pool(postgres_url, pooled=pooled, statement_timeout_s=60, lock_timeout_s=60)
    await db.execute("CREATE TABLE written (at timestamptz DEFAULT now())")
    async with db.transaction():
        await db.execute("LOCK TABLE written IN SHARE MODE")
        leaving = [asyncio.create_task(pool.fetch(WRITE)) for _ in range(2)]
        async with asyncio.timeout(60):
            while await db.fetchval(WAIT_FOR_LOCK) < 2:
                await asyncio.sleep(0.005)
        for one in leaving:
            one.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await asyncio.sleep(0.001)  # the clock must move for their age to be above 0
        assert pool.waits_for_standby, "the control: until a look at the server they count"
        await until_confirmed(pool)
        assert (await PostgresHealth(pool).problem()) == (True, None)
        await pool.fetch(Query(name="other", description="", text="CREATE TABLE other ()", reads=False))
        assert len(pool._unanswered._kept) == 2, "they still wait for the lock"
    async with asyncio.timeout(60):
        while pool._unanswered._kept:
            await asyncio.sleep(0.01)
    await pool.close()


async def until_confirmed(pool):
    async with asyncio.timeout(60):
        while pool.waits_for_standby:
            await asyncio.sleep(0.01)


async def test_the_servers_own_time_outs_do_not_end_a_commit(standby, postgres_url):
    limits = dict.fromkeys(("statement_timeout", "transaction_timeout", "lock_timeout"), "50ms")
    await standby.db.execute("CREATE TABLE written (at timestamptz DEFAULT now())")
    await standby.goes_away()
    connection = await asyncpg.connect(postgres_url, server_settings=limits)
    said = []
    connection.add_log_listener(lambda _, message: said.append(message.message))
    writing = asyncio.create_task(connection.fetch(WRITE.text))
    await standby.until_waiting()
    ended, _ = await asyncio.wait([writing], timeout=0.5)
    assert not ended
    await standby.comes_back()
    await writing
    assert said == []
    await connection.close()


async def test_a_host_that_answers_nothing_leaves_time_for_the_next(postgres_url):
    parts = urlsplit(postgres_url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{parts.port}"
        url = f"postgresql://{parts.username}:{parts.password}@{hosts}{parts.path}"
        pool = Database(PostgresSettings(url=url, acquire_timeout_s=2.0, pool_min=1), name="hosts")
        await pool.open()
        silent.setblocking(False)
        silent.accept()[0].close()
        # The host that served is asked first from now on.
        async with pool.connection(), pool.connection(), pool.connection():
            assert await pool.takes_writes()
        with pytest.raises(BlockingIOError):
            silent.accept()
        with pytest.raises(TimeoutError):
            await asyncpg.connect(url, timeout=0.5)
        await pool.close()


@pytest.mark.parametrize("code", ["53300", "28000"])
async def test_a_host_that_refuses_leaves_the_next_and_is_told_if_none_serves(postgres_url, code):
    """As when it is full, or its `pg_hba.conf` does not list this client."""
    text = f"SFATAL\0C{code}\0Mnot you\0\0".encode()
    answers = {80_877_103: b"N", 196_608: b"E" + struct.pack("!I", 4 + len(text)) + text}

    async def refuse(reader, writer):
        with suppress(asyncio.IncompleteReadError):
            while True:
                length, kind = struct.unpack("!II", await reader.readexactly(8))
                await reader.readexactly(length - 8)
                writer.write(answers[kind])
        writer.close()

    parts = urlsplit(postgres_url)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listener:
        refusing = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        for last in (f"127.0.0.1:{parts.port}", NO_SERVER):
            url = f"postgresql://{parts.username}:{parts.password}@{refusing},{last}{parts.path}"
            pool = Database(PostgresSettings(url=url, acquire_timeout_s=2.0), name="hosts")
            if last != NO_SERVER:
                (await pool.connect(suffix="")).terminate()
                continue
            with pytest.raises(asyncpg.PostgresError) as refused:
                await pool.connect(suffix="")
            assert refused.value.sqlstate == code


@pytest.mark.parametrize(("fails", "dropped"), [(1, False), (1000, True)])
async def test_one_failed_look_drops_no_connection_and_several_do(db, postgres_url, monkeypatch, fails, dropped):
    """A server under load may leave one unanswered."""
    monkeypatch.setattr(unanswered, "LOOK_S", 0.02)
    database = Database(PostgresSettings(url=postgres_url), name="looks")
    looks = asyncio.Semaphore(0)
    failed = 0

    async def connect():
        nonlocal failed
        looks.release()
        if failed < fails:
            failed += 1
            raise TimeoutError
        return await database.connect(suffix="-look")

    waiting = unanswered.Unanswered(connect, lambda *_: None, pooled=False)
    async with asyncpg.create_pool(postgres_url, min_size=2, max_size=2) as pool:
        for reads in (True, False):
            lent = await pool.acquire()
            asked = asyncio.create_task(lent.execute("SELECT pg_sleep(60)"))
            waiting.keep(lent, ended(asked), reads=reads)
        for _ in range(4):
            if not dropped:
                await asyncio.wait_for(looks.acquire(), 60)
        if dropped:
            await asyncio.wait_for(waiting.close(), 60)
        else:
            assert len(waiting._kept) == 2
            monkeypatch.setattr(unanswered, "OVERDUE_S", 0)
            for one in waiting._kept.values():
                one.for_standby = True
            assert waiting.wait_for_standby == 1, "a read waits for no standby"
        pool.terminate()
        await waiting.close()


async def ended(asked):
    await asyncio.gather(asked, return_exceptions=True)
