"""Accounts of cell 0 in another cell, by Postgres' own replication: they arrive, and their tokens end there too."""

import asyncio
import os
import time
import uuid

import asyncpg
import pytest

from flashsale.adapters.postgres import cells
from flashsale.adapters.postgres.copied_accounts import CopiedResets, CopiedUsers
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.jobs import open_jobs
from flashsale.domain.cells import first_product, last_product
from flashsale.domain.errors import NotReady, OtherCell, Unauthenticated
from flashsale.domain.products import LimitPer
from flashsale.domain.requests import order_id_at
from flashsale.domain.users import Role
from flashsale.local.postgres_server import LocalPostgres
from tests.conftest import (
    TEMPLATE,
    THROWN_AWAY,
    add_product,
    alembic,
    execute,
    make_settings,
    with_database,
)
from tests.support.accepting import accept_one
from tests.support.gates import ask

ADD = "INSERT INTO users (user_id, name, email) VALUES ($1, 'A', $2)"


@pytest.fixture(scope="module")
def account_cell(in_memory):
    """A server of cell 0 that can be copied from, with a migrated template."""
    server = LocalPostgres(in_memory / "cell0", settings={**THROWN_AWAY, "wal_level": "logical"})
    asyncio.run(server.start())
    asyncio.run(execute(server.url, f"CREATE DATABASE {TEMPLATE}"))
    done = alembic(with_database(server.url, TEMPLATE), "upgrade", "head")
    assert done.returncode == 0, done.stderr
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def accounts_url(account_cell):
    """A database of cell 0."""
    name = f"t_{uuid.uuid4().hex}"
    await execute(account_cell.url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    return with_database(account_cell.url, name)


@pytest.fixture
async def joined(accounts_url, postgres_url):
    """Connections to cell 0 and to cell 1, which copies its accounts; one account was there, and its password was changed."""
    there, here = await asyncpg.connect(accounts_url), await asyncpg.connect(postgres_url)
    known = uuid.uuid4()
    await there.execute(ADD, known, "known@example.com")
    await there.execute("UPDATE users SET password_hash = 'x' WHERE user_id = $1", known)
    await cells.begin(postgres_url, 1)
    await cells.join(postgres_url, accounts_url, 1)
    yield there, here, known
    await here.execute("DROP SUBSCRIPTION flashsale_cell_1")
    await there.close()
    await here.close()


async def until(here, statement, *values):
    """Wait until a statement gives something."""
    async with asyncio.timeout(60):
        while (found := await here.fetchval(statement, *values)) is None:
            await asyncio.sleep(0.02)
    return found


async def test_accounts_arrive_and_tokens_that_ended_in_cell_0_end_in_the_other(joined):
    there, here, known = joined
    # It was raised before the copy, which fires no trigger.
    assert await here.fetchval("SELECT generation FROM revocations WHERE user_id = $1", known) == 1
    heard: asyncio.Queue[str] = asyncio.Queue()
    await here.add_listener("flashsale_accounts", lambda *told: heard.put_nowait(told[3]))
    later = uuid.uuid4()
    await there.execute(ADD, later, "later@example.com")
    assert await until(here, "SELECT email FROM users WHERE user_id = $1", later) == "later@example.com"
    await there.execute("UPDATE users SET generation = generation + 1 WHERE user_id = $1", later)
    assert await asyncio.wait_for(heard.get(), 60) == f'["{later}", 1]'
    age = "SELECT clock_timestamp() - revoked_at < '1 minute' FROM revocations WHERE user_id = $1 AND generation = 1"
    assert await until(here, age, later)
    await there.execute("DELETE FROM users WHERE user_id = $1", later)
    assert await asyncio.wait_for(heard.get(), 60) == f'["{later}", 2147483647]'
    # No trail of the other cell's changes is written, and none of cell 0's triggers raised the generation twice.
    await there.execute("UPDATE users SET role = 'operator' WHERE user_id = $1", known)
    assert await until(here, "SELECT generation FROM users WHERE user_id = $1 AND role = 'operator'", known) == 2
    assert await here.fetchval("SELECT count(*) FROM admin_trail") == 0


async def test_an_erasure_that_begins_in_the_other_cell_and_ends_in_cell_0_leaves_both_alike(joined):
    there, here, known = joined
    for cell in (here, there):
        assert await cell.fetchval("SELECT erase_buyer_v1($1)", known) == "erased"
    later = uuid.uuid4()
    await there.execute(ADD, later, "later@example.com")
    await until(here, "SELECT 1 FROM users WHERE user_id = $1", later)
    rows = [await cell.fetchrow("SELECT * FROM users WHERE user_id = $1", known) for cell in (here, there)]
    assert rows[0] == rows[1]
    assert rows[0]["email"] == f"erased-{known}@erased.invalid"


async def test_without_the_trigger_that_always_fires_nobody_would_hear(joined):
    there, here, known = joined
    await here.execute("ALTER TABLE users ENABLE TRIGGER users_revoked")
    await there.execute("UPDATE users SET generation = 9 WHERE user_id = $1", known)
    await until(here, "SELECT 1 FROM users WHERE user_id = $1 AND generation = 9", known)
    assert await here.fetchval("SELECT generation FROM revocations WHERE user_id = $1", known) == 1


async def test_a_repetition_and_one_after_a_kill_end_alike(joined, accounts_url, postgres_url):
    there, here, _ = joined
    await cells.join(postgres_url, accounts_url, 1)
    await cells.begin(postgres_url, 1)
    # A kill between the slot in cell 0 and the subscription here leaves a slot that nobody reads.
    await here.execute("DROP SUBSCRIPTION flashsale_cell_1")
    await here.execute("DELETE FROM users")
    await there.execute("SELECT pg_create_logical_replication_slot('flashsale_cell_1', 'pgoutput')")
    await cells.join(postgres_url, accounts_url, 1)
    assert await here.fetchval("SELECT count(*) FROM users") == 1
    assert await there.fetchval("SELECT count(*) FROM pg_replication_slots") == 1


async def test_a_copy_that_fails_again_and_again_is_said_and_goes_on_once_it_can(
    accounts_url, postgres, postgres_url, db
):
    read = "SELECT pg_reload_conf()"
    await execute(postgres.url, "ALTER SYSTEM SET wal_retrieve_retry_interval = '10ms'", read)
    await execute(accounts_url, "INSERT INTO users (user_id, name, email) VALUES (gen_random_uuid(), 'A', 'a@a.com')")
    await cells.begin(postgres_url, 1)
    await db.execute("ALTER TABLE users ADD CONSTRAINT nobody CHECK (email IS NULL)")
    try:
        with pytest.raises(NotReady, match="failed 3 times"):
            await cells.join(postgres_url, accounts_url, 1)
        await db.execute("ALTER TABLE users DROP CONSTRAINT nobody")
        await cells.join(postgres_url, accounts_url, 1)
        assert await db.fetchval("SELECT count(*) FROM users") == 1
    finally:
        await db.execute("DROP SUBSCRIPTION IF EXISTS flashsale_cell_1")
        await execute(postgres.url, "ALTER SYSTEM RESET wal_retrieve_retry_interval", read)


@pytest.mark.parametrize(("number", "wrong"), [(0, order_id_at(0, bytes(10), cell=1)), (1, order_id_at(0, bytes(10)))])
async def test_the_audit_reports_an_order_whose_id_leads_to_another_cell(
    postgres_url, valkey, redis, db, number, wrong
):
    await cells.begin(postgres_url, number)
    settings = make_settings(postgres_url, valkey.url, cell={"number": number, "count": 2})
    async with open_services(settings) as services, open_jobs(settings, name="test") as jobs:
        await db.execute(ADD, user := uuid.uuid4(), "known@example.com")
        order_id = (await services.buy(ask(await add_product(services), user))).order_id

        async def bad_ids():
            found = await jobs.invariants.check(overdue_s=60, stuck_s=600)
            return [one.violations for one in found if one.invariant == "I16"]

        assert await bad_ids() == [0]
        renamed = uuid.UUID(int=order_id.int >> 80 << 80 | wrong.int & (1 << 80) - 1)
        await db.execute("SET session_replication_role = replica")
        await db.execute("UPDATE orders SET order_id = $2 WHERE order_id = $1", order_id, renamed)
        assert await bad_ids() == [1]


async def lose_slot(there, here):
    """Let cell 0 lose what it keeps for cell 1, as a failover to a standby without the slot does."""
    await here.execute("ALTER SUBSCRIPTION flashsale_cell_1 DISABLE")
    await until(there, "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'flashsale_cell_1' AND NOT active")
    await there.execute("SELECT pg_drop_replication_slot('flashsale_cell_1')")
    await here.execute("ALTER SUBSCRIPTION flashsale_cell_1 ENABLE")


async def accounts(cell):
    return await cell.fetch("SELECT * FROM users ORDER BY user_id")


async def change_while_away(there, here, services, known):
    """Change accounts in every way while nothing is copied, one of them that of an order; returns who was signed out."""
    erased, signed_out = uuid.uuid4(), uuid.uuid4()
    await there.execute(ADD, erased, "again@example.com")
    await there.execute(ADD, signed_out, "out@example.com")
    await until(here, "SELECT 1 FROM users WHERE user_id = $1", signed_out)
    product = await add_product(services, limit_per_buyer=5, limit_per=LimitPer.EMAIL_ROOT)
    await accept_one(
        services, product, known, order_id=order_id_at(time.time_ns() // 1_000_000, os.urandom(10), cell=1)
    )
    await lose_slot(there, here)
    await there.execute("UPDATE users SET generation = generation + 1 WHERE user_id = $1", signed_out)
    await there.execute("UPDATE users SET email = 'new@example.com' WHERE user_id = $1", known)
    # Its address is another account's now, whose row may be copied first.
    assert await there.fetchval("SELECT erase_buyer_v1($1)", erased) == "erased"
    await there.execute(ADD, uuid.UUID(int=1), "again@example.com")
    later = uuid.uuid4()
    await there.execute(ADD, later, "later@example.com")
    await there.execute("UPDATE users SET generation = 3 WHERE user_id = $1", later)
    # Cell 0 was restored to a time before this account, and its address is another one's now.
    await here.execute(ADD, uuid.UUID(int=2), "lost@example.com")
    await there.execute(ADD, uuid.uuid4(), "lost@example.com")
    return {signed_out: 1, erased: 1, later: 3}


async def assert_alike(there, here, ended):
    """Check that cell 1 has the accounts as cell 0 has them, and refuses the tokens that ended."""
    lost = uuid.UUID(int=2)
    mine = {row["user_id"]: row for row in await accounts(here)}
    assert mine.pop(lost)["email"] == f"replaced-{lost}@replaced.invalid"
    assert list(mine.values()) == await accounts(there)
    noted = dict(await here.fetch("SELECT user_id, generation FROM revocations"))
    assert ended.items() <= noted.items()
    wrong = """
        SELECT 1 FROM buyer_units AS b INNER JOIN users AS u ON b.user_id = u.user_id
        WHERE b.limit_id <> limit_id_v1(u.email_key, u.email)
    """
    assert await here.fetchval("SELECT count(*) FROM buyer_units WHERE limit_id IS NOT NULL") == 1
    assert await here.fetchval(wrong) is None
    newest = uuid.uuid4()
    await there.execute(ADD, newest, f"{newest}@example.com")
    await until(here, "SELECT 1 FROM users WHERE user_id = $1", newest)


async def test_a_cell_whose_slot_is_lost_copies_the_accounts_once_more(joined, accounts_url, postgres_url, services):
    there, here, known = joined
    ended = await change_while_away(there, here, services, known)
    heard: asyncio.Queue[str] = asyncio.Queue()
    await here.add_listener("flashsale_accounts", lambda *told: heard.put_nowait(told[3]))
    with pytest.raises(NotReady, match=r"The copy has stopped.* join --again"):
        await cells.join(postgres_url, accounts_url, 1)
    await cells.join(postgres_url, accounts_url, 1, again=True)
    await assert_alike(there, here, ended)
    # The processes are told of accounts that they may know.
    told = {heard.get_nowait() for _ in range(heard.qsize())}
    assert {f'["{user}", {generation}]' for user, generation in ended.items() if generation == 1} <= told
    # Now, too, with a slot that is read.
    await cells.join(postgres_url, accounts_url, 1, again=True)
    await assert_alike(there, here, ended)
    assert await there.fetchval("SELECT count(*) FROM pg_replication_slots") == 1


AFTER = (
    ("DISABLE",),
    ("DISABLE", "SET (slot_name = NONE)"),
    ("DISABLE", "SET (slot_name = NONE)", "DROP"),
    ("DISABLE", "SET (slot_name = NONE)", "DROP", "SLOT"),
)


@pytest.mark.parametrize("done", AFTER, ids=lambda done: done[-1])
async def test_the_second_copy_may_be_killed_after_each_step(joined, accounts_url, postgres_url, services, done):
    there, here, known = joined
    ended = await change_while_away(there, here, services, known)
    for step in done:
        if step == "DROP":
            await here.execute("DROP SUBSCRIPTION flashsale_cell_1")
        elif step == "SLOT":
            await there.execute("SELECT pg_create_logical_replication_slot('flashsale_cell_1', 'pgoutput')")
        else:
            await here.execute(f"ALTER SUBSCRIPTION flashsale_cell_1 {step}")
    with pytest.raises(NotReady, match="join --again"):
        await cells.join(postgres_url, accounts_url, 1)
    await cells.join(postgres_url, accounts_url, 1, again=True)
    await assert_alike(there, here, ended)


async def test_only_the_database_of_the_cell_takes_copies(accounts_url):
    # Cell 0's own database, by mistake.
    async with asyncio.timeout(60):
        with pytest.raises(NotReady, match="product ids of cell 0, and this is cell 1"):
            await cells.join(accounts_url, accounts_url, 1, again=True)


@pytest.mark.parametrize("done", AFTER[:2], ids=lambda done: done[-1])
async def test_a_copy_that_the_second_one_gave_up_is_not_called_complete(joined, accounts_url, postgres_url, done):
    there, here, _ = joined
    for step in done:
        await here.execute(f"ALTER SUBSCRIPTION flashsale_cell_1 {step}")
    # Cell 0 keeps everything for it, and nobody reads that.
    with pytest.raises(NotReady, match=r"The copy has stopped.* join --again"):
        await cells.join(postgres_url, accounts_url, 1)
    await cells.join(postgres_url, accounts_url, 1, again=True)
    later = uuid.uuid4()
    await there.execute(ADD, later, "later@example.com")
    await until(here, "SELECT 1 FROM users WHERE user_id = $1", later)


async def test_without_the_trigger_that_merges_the_second_copy_would_stop_at_the_first_account(
    joined, accounts_url, postgres_url, services
):
    there, here, known = joined
    ended = await change_while_away(there, here, services, known)
    await here.execute("ALTER TABLE users DISABLE TRIGGER users_merged")
    copying = asyncio.create_task(cells.join(postgres_url, accounts_url, 1, again=True))
    await until(here, "SELECT 1 FROM pg_stat_subscription_stats WHERE sync_error_count > 0")
    assert not copying.done()
    # A copy that stopped for a while goes on by itself.
    await here.execute("ALTER TABLE users ENABLE REPLICA TRIGGER users_merged")
    await asyncio.wait_for(copying, 60)
    await assert_alike(there, here, ended)


async def test_a_cell_numbers_its_own_products_and_no_others(services, postgres_url):
    await cells.check_cell(services.database, 0)
    await cells.begin(postgres_url, 3)
    await cells.check_cell(services.database, 3)
    with pytest.raises(NotReady, match="of cell 3, and this is cell 0"):
        await cells.check_cell(services.database, 0)
    create = "SELECT create_product_v6('P', 1, 'USD', 1, 'automatic', 300, NULL, 'account', 0, false, NULL, NULL)"
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval(create) == first_product(3)
        await connection.execute(f"SELECT setval(pg_get_serial_sequence('products', 'product_id'), {last_product(3)})")
        with pytest.raises(asyncpg.SequenceGeneratorLimitExceededError):
            await connection.fetchval(create)
    finally:
        await connection.close()
    await cells.begin(postgres_url, 3)
    with pytest.raises(NotReady, match="products of cell 3"):
        await cells.begin(postgres_url, 4)


async def test_what_cannot_join_is_told_why_and_nothing_changes(accounts_url, postgres_url, postgres):
    other = with_database(postgres.url, TEMPLATE)
    with pytest.raises(NotReady, match="wal_level"):
        await cells.join(postgres_url, other, 1)
    with pytest.raises(NotReady, match="No connection to cell 0"):
        await cells.join(postgres_url, "postgresql://a:b@127.0.0.1:1/c", 1)
    await execute(
        postgres_url, "INSERT INTO users (user_id, name, email) VALUES (gen_random_uuid(), 'A', 'a@example.com')"
    )
    with pytest.raises(NotReady, match="accounts of its own"):
        await cells.join(postgres_url, accounts_url, 1)
    connection = await asyncpg.connect(accounts_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_publication") == 0
    await connection.close()


async def test_copied_accounts_are_read_and_never_changed(services):
    users, resets, nobody = CopiedUsers(services.database), CopiedResets(services.database), uuid.uuid4()
    with pytest.raises(Unauthenticated, match="does not exist"):
        await users.account(nobody)
    for change in (
        users.create(name="A", email="a@example.com", password_hash=None, role=Role.BUYER),
        users.set_password(nobody, "x"),
        users.set_role(nobody, Role.ADMIN),
        users.raise_generation(nobody),
        users.create_buyers(1, prefix="a"),
        resets.ask("a@example.com", pause_s=1),
        resets.account(b"x"),
        resets.use(b"x", "x"),
    ):
        with pytest.raises(OtherCell, match="Cell 0"):
            await change
