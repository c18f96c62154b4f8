import re
from pathlib import Path

import asyncpg
import pytest

from flashsale.adapters.postgres.queries import load, sql_root
from flashsale.domain.orders import FINAL, TRANSITIONS, OrderStatus
from tests.conftest import ROOT, alembic

FILES = sorted(
    str(path.relative_to(sql_root())) for path in [*sql_root().glob("queries/*.sql"), sql_root() / "invariants.sql"]
)


@pytest.mark.parametrize("file", FILES)
async def test_every_statement_can_be_prepared(db, file):
    for query in load(file).values():
        await db.prepare(query.text)


@pytest.mark.parametrize("file", [file for file in FILES if file != "invariants.sql"])
def test_every_statement_is_used(file):
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    for name in load(file):
        assert re.search(rf'QUERIES\["{name}"\]|FIGURES\["{name}"\]|\)\["{name}"\]', code), name


def test_every_function_is_installed_by_a_migration():
    migrations = "".join(path.read_text() for path in (ROOT / "migrations/versions").glob("*.py"))
    for path in sql_root().glob("functions/*.sql"):
        assert f'"{path.stem}"' in migrations
        assert f"FUNCTION {path.stem}(" in path.read_text()


def test_no_revision_leaves_the_transaction_of_the_migration():
    """What is committed on the way has no rights yet, and no lock that keeps another migration away."""
    texts = {path.name: path.read_text() for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert [name for name, text in texts.items() if re.search("autocommit|CONCURRENTLY", text)] == []


async def test_the_database_allows_exactly_the_transitions_of_the_domain(db):
    rows = await db.fetch(
        "SELECT a, b FROM unnest($1::text[]) AS a, unnest($1::text[]) AS b WHERE order_transition_allowed_v2(a, b)",
        [status.value for status in OrderStatus],
    )
    assert {(row["a"], row["b"]) for row in rows} == {(a.value, b.value) for a, b in TRANSITIONS}


async def test_the_database_knows_the_states_and_which_are_final(db):
    checks = await db.fetch(
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'c'"
    )
    named = [set(re.findall(r"'([a-z_]+)'", row["text"])) for row in checks]
    assert {status.value for status in OrderStatus} in named
    assert {status.value for status in FINAL} in named


async def test_migrations_go_up_and_down_and_up_again(empty_url):
    async def objects():
        connection = await asyncpg.connect(empty_url)
        try:
            return await connection.fetchval(
                "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r')"
                " + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)"
                " + (SELECT count(*) FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e')"
            )
        finally:
            await connection.close()

    for command, left in (("upgrade head", None), ("downgrade base", 1), ("upgrade head", None)):
        done = alembic(empty_url, *command.split())
        assert done.returncode == 0, done.stderr
        assert await objects() == left if left is not None else await objects() > 40


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "Is it running"),
        ("nonsense", "no URL"),
        ("", "FLASHSALE_POSTGRES__URL: is no URL"),
    ],
)
def test_a_database_that_cannot_be_reached_is_one_line(url, said):
    done = alembic(url, "upgrade", "head")
    assert done.returncode
    assert said in done.stderr
    assert len(done.stderr.replace("See docs/reference/settings.md;", "").strip().splitlines()) <= 2
    assert "Traceback" not in done.stderr


def test_the_vendored_queue_schema_is_that_of_the_installed_library():
    import procrastinate

    installed = (Path(procrastinate.__file__).parent / "sql/schema.sql").read_text().splitlines()[1:]
    assert (sql_root() / "vendor/procrastinate_3_10.sql").read_text().splitlines()[1:] == installed


async def test_the_jobs_that_sql_defers_are_tasks_of_the_workers(db, settings):
    from workers.app import build_app

    tasks = build_app(settings).tasks
    for function in ("defer_order_job_v1", "defer_payment_jobs_v1"):
        name = re.search(r"'(\w+)', '(\w+:\w+)'", (sql_root() / f"functions/{function}.sql").read_text())
        assert name is not None
        assert tasks[name[2]].queue == name[1]


async def test_a_forbidden_transition_is_refused_by_the_database(services, db):
    from tests.conftest import add_buyers, add_product
    from tests.support.accepting import accept_one

    product = await add_product(services)
    order_id = await accept_one(services, product, (await add_buyers(services, 1))[0])
    for status in ("confirmed", "payment_failed", "awaiting_payment", "refunded"):
        with pytest.raises(asyncpg.CheckViolationError):
            await db.execute("UPDATE orders SET status = $2 WHERE order_id = $1", order_id, status)


async def test_a_database_of_a_newer_release_is_one_line_and_unchanged(postgres_url, db):
    await db.execute("UPDATE alembic_version SET version_num = '9999'")
    done = alembic(postgres_url, "upgrade", "head")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "revision 9999" in done.stderr
    assert "newer release" in done.stderr
    assert await db.fetchval("SELECT version_num FROM alembic_version") == "9999"
