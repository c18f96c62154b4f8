"""The digest of the schema: true to the migrations, sees every change, and lets an older release run on a newer one."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncpg
import pytest

from flashsale.adapters.postgres.schema import (
    QUERIES,
    USED_BY_OLDER,
    Expected,
    changed_objects,
    check_schema,
    difference,
    expected,
)
from flashsale.domain.errors import NotReady
from tests.conftest import ROOT, alembic, execute
from tests.schema import GRANTS, RELEASED, SCHEMA, digests, grants_of, released, schema_of, written

UPDATE = "run `python tests/schema.py`, and commit what it writes"


async def found_by(db):
    rows = await db.fetch(QUERIES["read_schema"].text)
    objects = {row["name"]: row["digest"] for row in rows}
    return Expected(revision=expected().revision, objects=objects)


async def test_the_digests_are_those_of_the_migrations(postgres_url):
    assert written(await schema_of(postgres_url)) == SCHEMA.read_text(), UPDATE


@pytest.mark.usefixtures("postgres_url")  # the roles exist
async def test_the_printed_sql_is_the_migration_and_has_its_limit(empty_url, monkeypatch):
    monkeypatch.setenv("FLASHSALE_POSTGRES__LOCK_TIMEOUT_S", "1.5")
    printed = await asyncio.to_thread(alembic, "postgresql://nobody@127.0.0.1:1/none", "upgrade", "head", "--sql")
    assert printed.returncode == 0, printed.stderr
    script = printed.stdout
    begin, limit, end = map(script.index, ("BEGIN;\n", "SET LOCAL lock_timeout = 1500;\n", "COMMIT;\n\n"))
    assert begin < limit < script.index("CREATE TABLE")
    assert script[end:].strip() == "COMMIT;", "the rights are part of the transaction"
    await execute(empty_url, script)
    assert written(await schema_of(empty_url)) == SCHEMA.read_text()
    granted = "SELECT has_table_privilege('flashsale_api', 'orders', 'SELECT')"
    db = await asyncpg.connect(empty_url)
    try:
        assert await db.fetchval(granted)
    finally:
        await db.close()


async def test_the_rights_are_those_that_the_statements_need(postgres_url):
    assert await grants_of(postgres_url) == GRANTS.read_text(), UPDATE


def test_revisions_are_numbers_in_a_row():
    names = sorted(path.name for path in (ROOT / "migrations" / "versions").glob("*.py"))
    assert [name[:5] for name in names] == [f"{number:04}_" for number in range(1, len(names) + 1)]


def test_released_sql_never_changes():
    now = digests()
    assert {name: now.get(name) for name in released()} == released(), "write a new revision and a new _vN instead"
    assert "migrations/versions/0001_orders_units_and_jobs.py" in RELEASED.read_text()


CHANGES = {
    "table": ("ALTER TABLE {name} RENAME TO elsewhere", "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"),
    "column": (
        "ALTER TABLE {table} DROP COLUMN {part} CASCADE",
        "ALTER TABLE {table} RENAME COLUMN {part} TO elsewhere",
    ),
    "constraint": ('ALTER TABLE {table} DROP CONSTRAINT "{part}" CASCADE',),
    "index": ("DROP INDEX {name}",),
    "trigger": ("ALTER TABLE {table} DISABLE TRIGGER {part}", "DROP TRIGGER {part} ON {table}"),
    "enum": ("ALTER TYPE {name} ADD VALUE 'another'",),
    "function": ("AS $function$ -- changed\n", "SECURITY DEFINER AS $function$"),
}
OF_TYPES = {
    "table": ("ALTER TYPE {name} RENAME TO elsewhere",),
    "column": ("ALTER TYPE {table} DROP ATTRIBUTE {part} CASCADE",),
}


async def changes(db):
    """Give, for every object of the schema, statements that change it by hand."""
    functions = {
        row["name"]: row["text"]
        for row in await db.fetch(
            """
            SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS name,
                pg_get_functiondef(p.oid) AS text
            FROM pg_proc AS p WHERE p.pronamespace = current_schema()::regnamespace
            """
        )
    }
    of_constraints = {row["name"] for row in await db.fetch("SELECT conname AS name FROM pg_constraint")}
    types = {row["name"] for row in await db.fetch("SELECT relname AS name FROM pg_class WHERE relkind = 'c'")}
    for named in expected().objects:
        kind, name = named.split(" ", 1)
        table, _, part = name.partition(".")
        if kind == "index" and name in of_constraints:
            continue  # goes with its constraint
        for change in (OF_TYPES if table in types else CHANGES)[kind]:
            if kind == "function":
                text = functions[name]
                by_owner = text.replace(" SECURITY DEFINER", "").replace(
                    "BEGIN ATOMIC", "BEGIN ATOMIC SELECT 'changed';"
                )
                yield named, text.replace("AS $function$", change, 1) if "AS $function$" in text else by_owner
            else:
                yield named, change.format(name=name, table=table, part=part)


async def test_every_change_of_every_object_is_named(db):
    tried: Counter[str] = Counter()
    async for named, statement in changes(db):
        transaction = db.transaction()
        await transaction.start()
        await db.execute(statement)
        changed = changed_objects(expected(), await found_by(db))
        await transaction.rollback()
        assert any(line.startswith(f"{named} is ") for line in changed), (statement, changed)
        tried[named.split(" ", 1)[0]] += 1
    assert tried.keys() == {named.split(" ", 1)[0] for named in expected().objects}
    assert sum(tried.values()) > len(expected().objects), "indexes of constraints go with these"
    assert not changed_objects(expected(), await found_by(db))


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE orders ADD CONSTRAINT hurried CHECK (quantity < 2)",
        "CREATE TRIGGER hurried BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION guard_order_transition_v1()",
    ],
)
async def test_a_constraint_or_trigger_that_somebody_added_is_named(db, statement):
    await db.execute(statement)
    assert "orders.hurried is not of this release" in str(difference(expected(), await found_by(db)))


async def test_an_index_or_column_that_an_operator_added_is_no_difference(db):
    await db.execute("CREATE INDEX by_price ON orders (unit_price_minor); ALTER TABLE orders ADD COLUMN note text")
    assert difference(expected(), await found_by(db)) is None


def test_an_older_release_runs_on_a_newer_schema_unless_what_it_calls_is_gone():
    wanted = expected()
    for named in wanted.objects:
        newer = {name: digest for name, digest in wanted.objects.items() if name != named} | {"function next_v9()": "1"}
        problem = difference(wanted, Expected(revision="9999", objects=newer))
        if named.startswith(USED_BY_OLDER):
            assert problem is not None
            assert "deploy the newer release" in problem
            assert named in problem
        else:
            assert problem is None, named


async def test_a_database_without_a_schema_or_with_an_older_one_says_to_migrate(empty_url, services):
    assert "alembic upgrade head" in str(difference(expected(), None))
    older = Expected(revision="0000", objects={})
    assert "at revision 0000" in str(difference(expected(), older))
    await check_schema(services.database)
    await execute(services.settings.postgres.url.get_secret_value(), "DROP FUNCTION void_requests_v1")
    with pytest.raises(NotReady, match=r"function void_requests_v1\(.*\) is missing"):
        await check_schema(services.database)
