"""Accounts of cell 0 in another cell, by Postgres' own replication: they arrive, and their tokens end there too."""

import asyncio
import uuid

import asyncpg
import pytest

from flashsale.adapters.postgres import cells
from flashsale.adapters.postgres.copied_accounts import CopiedResets, CopiedUsers
from flashsale.domain.cells import first_product, last_product
from flashsale.domain.errors import NotReady, OtherCell, Unauthenticated
from flashsale.domain.users import Role
from flashsale.local.postgres_server import LocalPostgres
from tests.conftest import TEMPLATE, THROWN_AWAY, alembic, execute, with_database

ADD = "INSERT INTO users (user_id, name, email) VALUES ($1, 'A', $2)"


@pytest.fixture(scope="module")
def account_cell(tmp_path_factory):
    """A server of cell 0 that can be copied from, with a migrated template."""
    server = LocalPostgres(tmp_path_factory.mktemp("cell0"), settings={**THROWN_AWAY, "wal_level": "logical"})
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
    async with asyncio.timeout(20):
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
    assert await asyncio.wait_for(heard.get(), 20) == f'["{later}", 1]'
    age = "SELECT clock_timestamp() - revoked_at < '1 minute' FROM revocations WHERE user_id = $1 AND generation = 1"
    assert await until(here, age, later)
    await there.execute("DELETE FROM users WHERE user_id = $1", later)
    assert await asyncio.wait_for(heard.get(), 20) == f'["{later}", 2147483647]'
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


async def test_a_copy_that_cell_0_kept_nothing_for_is_told_and_not_called_complete(joined, accounts_url, postgres_url):
    there, here, _ = joined
    await here.execute("ALTER SUBSCRIPTION flashsale_cell_1 DISABLE")
    await until(there, "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'flashsale_cell_1' AND NOT active")
    await there.execute("SELECT pg_drop_replication_slot('flashsale_cell_1')")
    await here.execute("ALTER SUBSCRIPTION flashsale_cell_1 SET (slot_name = NONE)")
    with pytest.raises(NotReady, match="The copy has stopped"):
        await cells.join(postgres_url, accounts_url, 1)


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
