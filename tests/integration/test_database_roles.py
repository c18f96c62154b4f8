"""The roles of the database under which processes run: what they need works, and every other right is refused."""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import sys
from collections import Counter

import asyncpg
import pytest

from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.commands import open_accounts, open_audit
from flashsale.bootstrap.jobs import open_jobs
from flashsale.bootstrap.servers import as_owner
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import PaymentMode
from flashsale.domain.trail import Author
from flashsale.domain.users import Principal, Role
from flashsale.usecases.ports import PoisonBatch
from tests.conftest import (
    ROOT,
    add_buyers,
    add_product,
    alembic,
    execute,
    make_settings,
    of_this_checkout,
    with_database,
)
from tests.grants import API, ROLES, WORKER
from tests.schema import GRANTS
from tests.support.accepting import accept_one

PASSWORD = "only-for-tests"
REFUSED = asyncpg.InsufficientPrivilegeError


@pytest.fixture(scope="module")
def logins(postgres):
    """Let the roles log in."""
    asyncio.run(execute(postgres.url, *(f"ALTER ROLE {role} LOGIN PASSWORD '{PASSWORD}'" for role in ROLES)))


def url_as(role, url):
    return f"postgresql://{role}:{PASSWORD}@" + url.rpartition("@")[2]


@pytest.fixture
async def connections(logins, postgres_url):
    """A connection of each role."""
    opened = {role: await asyncpg.connect(url_as(role, postgres_url)) for role in ROLES}
    yield opened
    for connection in opened.values():
        await connection.close()


async def refused(connection, statement):
    """Whether a statement fails for want of a right; what it does is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except REFUSED:
        return True
    except asyncpg.PostgresError:
        return False  # it may, and fails for another reason
    finally:
        await transaction.rollback()
    return False


async def test_the_roles_own_nothing_and_have_no_power(db):
    for role in ROLES:
        row = await db.fetchrow("SELECT * FROM pg_roles WHERE rolname = $1", role)
        powers = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")
        assert not any(row[power] for power in powers), role
        owned = "SELECT count(*) FROM pg_shdepend WHERE refobjid = $1 AND deptype = 'o'"
        assert await db.fetchval(owned, row["oid"]) == 0
        assert await db.fetchval("SELECT count(*) FROM pg_auth_members WHERE member = $1", row["oid"]) == 0


async def test_every_right_that_was_not_granted_is_refused(db, connections):
    """Each role x table x column x statement; the file of grants, read by Postgres, says which are allowed."""
    rows = await db.fetch(
        """
        SELECT c.relname AS table, a.attname AS column, format_type(a.atttypid, NULL) AS type FROM pg_class AS c
        INNER JOIN pg_attribute AS a ON c.oid = a.attrelid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
        """
    )
    by_column = {
        "SELECT": 'SELECT "{column}" FROM {table} WHERE false',
        "INSERT": 'INSERT INTO {table} ("{column}") OVERRIDING SYSTEM VALUE SELECT NULL::{type} WHERE false',
        "UPDATE": 'UPDATE {table} SET "{column}" = DEFAULT WHERE false',
    }
    by_table = {
        "DELETE": "DELETE FROM {table} WHERE false",
        "TRUNCATE": "TRUNCATE {table} CASCADE",
        "TRIGGER": "CREATE TRIGGER t BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "OWNER": "DROP TABLE {table} CASCADE",
        "ALTER": "ALTER TABLE {table} DISABLE TRIGGER ALL",
    }
    tried: Counter[str] = Counter()
    tables = sorted({row["table"] for row in rows})
    cases = [
        (row["table"], row["column"], kind, text.format(**row)) for row in rows for kind, text in by_column.items()
    ]
    cases += [(table, None, kind, text.format(table=table)) for table in tables for kind, text in by_table.items()]
    for role, connection in connections.items():
        for table, column, kind, statement in cases:
            if column is not None:
                granted = await db.fetchval("SELECT has_column_privilege($1, $2, $3, $4)", role, table, column, kind)
            elif kind in {"OWNER", "ALTER"}:
                granted = False
            else:
                granted = await db.fetchval("SELECT has_table_privilege($1, $2, $3)", role, table, kind)
            assert await refused(connection, statement) is not granted, (role, statement)
            tried["granted" if granted else "refused"] += 1
    assert min(tried.values()) > 300, tried
    # As the file says, word by word, of what matters most.
    granted = re.findall(r"GRANT (.*) ON payment_attempts TO flashsale_api;", GRANTS.read_text())
    assert granted == ["SELECT"], "the API reads attempts for administrators, and never writes one"


async def test_what_has_happened_cannot_be_changed(connections):
    for connection, table in itertools.product(connections.values(), ("order_events", "product_terms")):
        assert await refused(connection, f"DELETE FROM {table}")
        assert await refused(connection, f"UPDATE {table} SET {'status' if table == 'order_events' else 'name'} = 'x'")


POWERS = (
    "CREATE TABLE public.mine (a integer)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE public.mine AS ENUM ('a')",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "CREATE EXTENSION file_fdw",
    "CREATE PUBLICATION mine",
    "SET ROLE flashsale",
    "SET session_replication_role = replica",
    "SET log_error_verbosity = verbose",
    "SET log_min_error_statement = error",
    "ALTER SYSTEM SET fsync = off",
    "ALTER ROLE flashsale PASSWORD 'mine'",
    "COPY orders TO PROGRAM 'cat'",
    "COPY orders TO '/tmp/orders'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT * FROM pg_authid",
    "SELECT password_hash FROM users",
    "SELECT * FROM users",
    "SELECT u FROM users AS u",
    "COPY users TO STDOUT",
    "INSERT INTO users (user_id, name, email, role) VALUES (gen_random_uuid(), 'Eve', 'eve@x.org', 'admin')",
    "UPDATE users SET role = 'admin'",
    "UPDATE orders SET unit_price_minor = 1",
    "UPDATE orders SET user_id = gen_random_uuid()",
    "DROP SCHEMA public CASCADE",
    "DROP FUNCTION void_requests_v2",
    "CREATE OR REPLACE FUNCTION void_requests_v2(_order_ids uuid[]) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "DELETE FROM alembic_version",
)


async def test_no_role_has_any_other_power(connections):
    for role, connection in connections.items():
        for statement in POWERS:
            try:
                await connection.execute(statement)
            except REFUSED:
                continue
            raise AssertionError((role, statement))


async def test_a_function_that_writes_with_the_rights_of_the_owner_has_a_path_of_its_own(db):
    """Triggers that the function fires would otherwise find the caller's temporary tables first."""
    functions = await db.fetch("SELECT proname, provolatile, proconfig FROM pg_proc WHERE prosecdef")
    writing = {row["proname"]: row["proconfig"] or [] for row in functions if row["provolatile"] == b"v"}
    assert writing
    assert [name for name, config in writing.items() if "search_path=public, pg_temp" not in config] == []


async def test_functions_are_called_by_whom_they_are_for(db, connections):
    rows = await db.fetch(
        "SELECT p.oid::regprocedure::text AS signature, p.oid, p.proname, pronargs FROM pg_proc AS p"
        " WHERE p.pronamespace = 'public'::regnamespace AND p.prorettype <> 'trigger'::regtype"
    )
    counted: Counter[bool] = Counter()
    for role, connection in connections.items():
        for row in rows:
            granted = await db.fetchval("SELECT has_function_privilege($1, $2::oid, 'EXECUTE')", role, row["oid"])
            types = row["signature"].partition("(")[2].removesuffix(")")
            arguments = ", ".join(f"NULL::{one}" for one in types.split(",") if one)
            was_refused = await refused(connection, f"SELECT {row['proname']}({arguments})")
            assert was_refused is not granted, (role, row["signature"])
            counted[granted] += 1
        assert await refused(connection, "SELECT password_hash_v1(NULL)") is not (role == API)
    assert min(counted.values()) > 20, counted
    everybody = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proacl IS NULL"
    assert await db.fetchval(everybody) == 0


async def test_a_whole_sale_works_under_the_roles_alone(logins, postgres_url, valkey, redis):
    api = make_settings(url_as(API, postgres_url), valkey.url)
    worker = make_settings(url_as(WORKER, postgres_url), valkey.url)
    async with open_services(api) as services, open_jobs(worker, name="roles") as jobs:
        product = await add_product(services, allotment=20, payment_mode=PaymentMode.BY_BUYER, limit_per_buyer=2)
        buyers = await add_buyers(services, 6)
        orders = [await accept_one(services, product, buyer) for buyer in buyers]
        await jobs.process_orders(orders)
        for order_id, buyer in zip(orders[:3], buyers, strict=False):
            await services.orders.pay(order_id, Principal(user_id=buyer, role=Role.BUYER))
        await services.orders.cancel(orders[3], Principal(user_id=buyers[3], role=Role.BUYER))
        payments = PostgresPayments(jobs.database)
        begun = await payments.begin(orders[:3], due_s=30)
        assert len(begun) == 3
        await jobs.sweep()
        await jobs.reconcile()
        await jobs.tend_units()
        await jobs.tidy()
        assert not [one for one in await jobs.invariants.check_recent(overdue_s=60, stuck_s=60) if one.violations]
        assert not [one for one in await services.audit_now() if one.violations], "an administrator may run the audit"
        shown = {one: order.status for one, order in (await services.order_rows.get_many(orders)).items()}
        assert shown[orders[3]] is OrderStatus.CANCELLED
        assert shown[orders[0]] is OrderStatus.PROCESSING_PAYMENT
    async with open_audit(worker.model_copy(update={"payments": type(worker.payments)()})) as audit:
        found = await audit(history=None, overdue_s=60, stuck_s=60)
    # These orders did not come through the gate, which therefore counts more.
    assert {one.invariant for one in found if one.violations} <= {"I3"}


async def test_only_the_owner_makes_administrators(logins, postgres_url, valkey):
    settings = make_settings(
        url_as(API, postgres_url), valkey.url, postgres={"url": url_as(API, postgres_url), "owner_url": postgres_url}
    )
    by = Author(user_id=None, action="admin create", origin="here")
    async with open_accounts(settings, name="test") as (accounts, _):
        with pytest.raises(PoisonBatch, match="permission denied"):
            await accounts.create_staff(email="a@example.com", password="a long enough one", by=by)
    async with open_accounts(as_owner(settings), name="test") as (accounts, _):
        assert (await accounts.create_staff(email="a@example.com", password="a long enough one", by=by)).name


async def test_without_createrole_an_administrator_makes_the_roles_first(postgres):
    """A managed database whose user may create no roles: the migration works, says what is missing, and goes on later."""
    names = ("poor_owner", "poor_database")
    await execute(
        postgres.url,
        f"CREATE ROLE {names[0]} LOGIN PASSWORD '{PASSWORD}'",
        f"CREATE DATABASE {names[1]} OWNER {names[0]}",
    )
    url = url_as(names[0], with_database(postgres.url, names[1]))
    try:
        # The server has the roles: a user without CREATEROLE grants to them.
        done = alembic(url, "upgrade", "head")
        assert (done.returncode, done.stderr) == (0, "")
        connection = await asyncpg.connect(with_database(postgres.url, names[1]))
        assert await connection.fetchval("SELECT has_table_privilege('flashsale_worker', 'orders', 'SELECT')")
        for role in ROLES:
            for power in ("TEMP", "CREATE"):
                assert not await connection.fetchval("SELECT has_database_privilege($1, $2, $3)", role, names[1], power)
            assert not await connection.fetchval("SELECT has_schema_privilege($1, 'public', 'CREATE')", role)
        assert not await connection.fetchval(
            "SELECT has_table_privilege('flashsale_api', 'payment_attempts', 'INSERT')"
        )
        await connection.close()
    finally:
        await execute(postgres.url, f"DROP DATABASE {names[1]} WITH (FORCE)", f"DROP ROLE {names[0]}")


def test_an_audit_without_the_rights_is_one_line(logins, postgres_url, valkey):
    done = subprocess.run(
        [sys.executable, "-m", "flashsale.cli", "audit"],
        env=of_this_checkout(
            FLASHSALE_POSTGRES__URL=url_as(API, postgres_url),
            FLASHSALE_REDIS__URL=valkey.url,
            FLASHSALE_LOG__LEVEL="error",
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "permission denied" in said
    assert WORKER in said
