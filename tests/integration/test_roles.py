"""Roles: each operation of the administration is open to the roles that it names, and to no other account."""

import asyncio
import re
import subprocess
import uuid

import pytest

from flashsale.domain.errors import InvalidInput
from flashsale.domain.users import STAFF, Role
from flashsale.http.auth import Tokens
from flashsale.http.operations import ROLES
from tests.conftest import ROOT, alembic
from tests.support.commands import CLI, environment
from tests.support.desk import open_desk

METHODS = {"get", "post", "put", "patch", "delete"}
PASSWORD = b"unlikely 4711 horse\n"


async def operations(desk):
    document = (await desk.client.get("/schema/openapi.json")).json()
    for path, item in document["paths"].items():
        for method in item.keys() & METHODS:
            yield method.upper(), path, item[method]


async def test_each_operation_is_open_to_the_roles_that_it_names_and_to_no_other(settings, db):
    """What is allowed may fail later, because nothing that a call names exists; 403 and 401 are never given then."""
    async with open_desk(settings, db) as desk:
        tokens = Tokens(settings.auth)
        callers = {}
        for role in Role:
            user = await desk.services.users.create(
                name=role, email=f"{role}@example.com", password_hash="x", role=role
            )
            callers[role] = {"Authorization": f"Bearer {tokens.issue(user.principal)}"}
        tried = 0
        async for method, path, operation in operations(desk):
            if not path.startswith("/api/admin/"):
                assert "x-roles" not in operation
                continue
            roles = set(operation["x-roles"])
            assert roles in [set(one) for one in ROLES.values()]
            assert f"Roles: {', '.join(sorted(roles))}." in operation["description"]
            place = path.replace("{product_id}", "2000000000").replace("{number}", "1")
            place = re.sub(r"\{\w+\}", str(uuid.uuid4()), place)
            for role, headers in callers.items():
                body = {} if "requestBody" in operation else None
                answer = await desk.client.request(method, place, json=body, headers=headers)
                tried += 1
                if role in roles:
                    assert answer.status_code not in {401, 403}, (operation["operationId"], role, answer.text)
                    continue
                assert answer.status_code == 403, (operation["operationId"], role, answer.text)
                named = f"the role {' or '.join(sorted(roles))}; your account's role is {role}."
                assert answer.json()["detail"].endswith(named)
        assert tried >= 4 * 12


LEAST = {
    "pauseSale": "operator",
    "resumeSale": "operator",
    "refundOrder": "support",
    "createProduct": "admin",
    "closeSale": "admin",
    "archiveProduct": "admin",
    "changeProduct": "admin",
    "setStock": "admin",
    "changeStock": "admin",
}


async def test_what_changes_something_asks_for_more_than_a_look(settings, db):
    async with open_desk(settings, db) as desk:
        async for method, path, operation in operations(desk):
            if path.startswith("/api/admin/"):
                name, roles = operation["operationId"], set(operation["x-roles"])
                assert method == "GET" or roles < set(STAFF), f"{name} changes something, and all staff may call it"
                if name in LEAST:
                    assert roles == set(ROLES[LEAST[name]]), name


async def test_another_role_ends_the_tokens_of_the_old_one_at_once(settings, db):
    async with open_desk(settings, db, role=Role.SUPPORT) as desk:
        assert (await desk.call("GET", "/api/admin/orders")).status_code == 200
        await desk.services.accounts.set_role(desk.email, Role.OPERATOR)
        assert (await desk.call("GET", "/api/admin/orders")).status_code == 401


def run(settings, *arguments, password=PASSWORD):
    done = subprocess.run(
        [*CLI, "admin", *arguments], env=settings, cwd=ROOT, input=password, capture_output=True, check=False
    )
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1, done.stderr
    return done.returncode, (done.stdout + done.stderr).decode()


async def test_the_command_line_creates_staff_and_changes_role_and_password_and_the_trail_says_so(
    postgres_url, valkey, db
):
    settings = environment(postgres_url, valkey.url)
    steps = [
        (("create", "ada@example.com", "--role", "support"), PASSWORD, 0, "support ada@example.com"),
        (("create", "eve@example.com"), b"\n", 1, "password must"),
        (("password", "ada@example.com"), b"another 4711 horse\n", 0, "support ada@example.com"),
        (("role", "ada@example.com", "operator"), b"", 0, "operator ada@example.com"),
    ]
    for arguments, password, code, told in steps:
        status, text = await asyncio.to_thread(run, settings, *arguments, password=password)
        assert (status, told in text) == (code, True), (arguments, text)
    rows = await db.fetch("SELECT actor, origin, action, new ->> 'role' AS role FROM admin_trail ORDER BY trail_id")
    assert [(row["actor"], row["action"], row["role"]) for row in rows] == [
        ("cli", "admin create", "support"),
        ("cli", "admin password", "support"),
        ("cli", "admin role", "operator"),
    ]
    assert all("@" in row["origin"] for row in rows)


async def test_what_cannot_be_done_to_an_account_is_refused_and_changes_nothing(services, db):
    accounts, password = services.accounts, "unlikely 4711 horse"
    await accounts.create_staff(email="ada@example.com", password=password, role=Role.SUPPORT)
    await accounts.register(name="Eve", email="eve@example.com", password=password)
    before = await db.fetch("SELECT * FROM users ORDER BY email")
    kept = await accounts.create_staff(email="ADA@example.com", password=password, role=Role.SUPPORT, if_missing=True)
    assert kept.role is Role.SUPPORT
    for refused, problem in (
        (accounts.create_staff(email="ada@example.com", password=password), "account with the role support"),
        (accounts.create_staff(email="eve@example.com", password=password, if_missing=True), "with the role buyer"),
        (accounts.create_staff(email="new@example.com", password=""), "password must"),
        (accounts.set_staff_password(email="ada@example.com", password="12345678"), "common"),
        (accounts.set_staff_password(email="eve@example.com", password=password), "no account of staff"),
        (accounts.set_role("nobody@example.com", Role.ADMIN), "no account"),
    ):
        with pytest.raises(InvalidInput, match=problem):
            await refused
    assert await db.fetch("SELECT * FROM users ORDER BY email") == before


async def test_a_downgrade_leaves_no_account_with_a_role_that_the_older_release_does_not_know(postgres_url, db):
    await db.execute(
        "INSERT INTO users (user_id, name, email, role) SELECT gen_random_uuid(), 'x', r || '@x.org', r "
        "FROM unnest($1::text []) AS r",
        [role.value for role in Role],
    )
    done = alembic(postgres_url, "downgrade", "0026")
    assert done.returncode == 0, done.stderr
    found = await db.fetch("SELECT email, role FROM users ORDER BY email")
    assert {row["email"]: row["role"] for row in found} == {
        "admin@x.org": "admin", "buyer@x.org": "buyer", "operator@x.org": "buyer", "support@x.org": "buyer"
    }  # fmt: skip
