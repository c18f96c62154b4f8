"""One account for each address, in whatever form it is typed; accounts of before whose addresses are one stay."""

import asyncio
import uuid

import asyncpg
import pytest

from flashsale.domain.errors import EmailTaken
from flashsale.domain.users import Role
from tests.conftest import alembic

FORMS = ["ada@example.com", "ADA@Example.COM", "ａda@example.com", "ada＠example.com"]

OLDER = """
INSERT INTO users (user_id, name, email, password_hash, role, created_at)
VALUES ($1, $2, $3, 'hash of ' || $2, 'buyer', $4) ON CONFLICT DO NOTHING RETURNING user_id
"""
"""How releases of before make an account."""


async def create(services, email):
    return await services.users.create(name="x", email=email, password_hash=None, role=Role.BUYER)


@pytest.mark.parametrize("first", FORMS)
async def test_the_forms_of_an_address_are_one_account(services, first):
    user = await create(services, first)
    for form in FORMS:
        with pytest.raises(EmailTaken):
            await create(services, form)
        found, _ = await services.users.credentials(form)
        assert (found.user_id, found.email) == (user.user_id, first)


async def test_forms_that_register_at_once_become_one_account(services):
    results = await asyncio.gather(*(create(services, form) for form in FORMS * 5), return_exceptions=True)
    assert sum(isinstance(result, EmailTaken) for result in results) == len(results) - 1


async def test_an_older_process_cannot_take_an_address_that_is_taken(services, db):
    user = await create(services, "ａda@example.com")
    assert await db.fetchval(OLDER, uuid.uuid4(), "older", "Ada@example.com", user.created_at) is None


async def test_accounts_whose_addresses_turn_out_to_be_one_survive_the_upgrade_and_log_in(empty_url):
    assert alembic(empty_url, "upgrade", "0009").returncode == 0
    db = await asyncpg.connect(empty_url)
    groups = [
        ["ａda@example.com", "ada@example.com", "𝐚da@example.com"],
        ["ｂob@example.com", "𝐛ob@example.com"],
        ["Eve@example.com"],
    ]
    now = await db.fetchval("SELECT now()")
    for email in [email for group in groups for email in group]:
        assert await db.fetchval(OLDER, uuid.uuid4(), email, email, now)
    done = alembic(empty_url, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    from flashsale.adapters.postgres.database import Database
    from flashsale.adapters.postgres.users import PostgresUsers
    from tests.conftest import make_settings

    database = Database(make_settings(empty_url, "redis://127.0.0.1:1/0").postgres, name="test")
    await database.open()
    try:
        users = PostgresUsers(database)
        for group in groups:
            for email in group:
                # Each under its own spelling, with its own password.
                found = await users.credentials(email)
                assert found is not None
                assert found[1] == f"hash of {email}"
        with pytest.raises(EmailTaken):
            await users.create(name="x", email="BOB@example.com", password_hash=None, role=Role.BUYER)
        # Together they are one buyer, where the product says so.
        assert await db.fetchval("SELECT count(DISTINCT limit_id_v1(email_key, email)) FROM users") == len(groups)
    finally:
        await database.close()
    for revision in ("0009", "head"):
        assert alembic(empty_url, "downgrade" if revision == "0009" else "upgrade", revision).returncode == 0
    assert await db.fetchval("SELECT count(*) FROM users") == 6
    await db.close()
